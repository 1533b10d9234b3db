// The passes of a picture (docs/scene_format.md, "A picture"): surface, aggregation G, decoder D in
// two convolutions, outline. Between passes lie maps of the canvas' size. Channels are packed in
// pairs of half floats into integer targets, which every WebGL2 can draw to.
//
// Channels lie in blocks of four: block i holds the features of feature image i in x, y, z, and in
// w what else a network takes: G the ray's direction d, D the blended colour c and whether the hit
// was seen. Capitals are filled in by the renderer: K source views, IMAGES feature images of each,
// IN blocks into G and D, G_HIDDEN and D_HIDDEN blocks inside them. STORE(target, blocks) writes
// all blocks to a target, two to a layer.

const QUAD_VERTEX = `
void main() { gl_Position = vec4(ivec2(gl_VertexID & 1, gl_VertexID >> 1) * 4 - 1, 0, 1); }`;

// What the fragment shaders share.
const COMMON = `
precision highp float;
precision highp int;
precision highp usampler2DArray;
precision highp sampler2DArray;
uniform usampler2DArray hits;         // point of the hit in bits of floats; normal; 0: no hit
uniform sampler2DArray photographs;
uvec4 hit_at(ivec2 pixel) { return texelFetch(hits, ivec3(pixel, 0), 0); }
bool is_outside(ivec2 pixel) {
  return any(lessThan(pixel, ivec2(0))) || any(greaterThanEqual(pixel, textureSize(hits, 0).xy));
}
vec3 palette(int k) {
  return 0.5 + 0.5 * cos(6.2832 * (float(k) * 0.618 + vec3(0.0, 0.33, 0.67)));
}
uint packed_normal(vec3 n) {
  uvec3 tenbits = uvec3(round((n * 0.5 + 0.5) * 1023.0));
  return 1u << 31 | tenbits.x << 20 | tenbits.y << 10 | tenbits.z;
}
vec3 normal_of(uint bits) {
  return vec3(uvec3(bits >> 20, bits >> 10, bits) & 1023u) / 1023.0 * 2.0 - 1.0;
}
uvec2 packed(vec4 block) { return uvec2(packHalf2x16(block.xy), packHalf2x16(block.zw)); }
vec4 unpacked(uvec2 bits) { return vec4(unpackHalf2x16(bits.x), unpackHalf2x16(bits.y)); }
`;

const SURFACE_VERTEX = `
uniform mat4 object_to_clip;
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
out vec3 p_obj, n_obj;
void main() {
  p_obj = position;
  n_obj = normal;
  gl_Position = object_to_clip * vec4(position, 1);
}`;

// 1. The first hit of the ray through each pixel's centre.
const SURFACE = `
in vec3 p_obj, n_obj;
layout(location = 0) out highp uvec4 hit;
void main() {
  hit = uvec4(floatBitsToUint(p_obj), packed_normal(normalize(n_obj)));
}`;

// 5. Four rays a pixel, in a target of twice the size.
const COVERAGE = `
out vec4 covered;
void main() { covered = vec4(1); }`;

// 2. and 3. Samples of all source views at the hit, weighed by G and blended.
const AGGREGATE = `
uniform sampler2DArray features;      // layer k * IMAGES + i is feature image i of view k
uniform sampler2DArray depths;        // code in r (high byte) and g, mask in b
uniform vec2 resolution;              // W, H of a source view
uniform float depth_tolerance;
uniform vec3 eye_obj;
uniform bool uses_G, shows_weights;
layout(std140) uniform Sources { mat4 object_to_uvz[K]; vec4 centre_obj[K]; vec4 near_far[K]; };
layout(std140) uniform Range { vec4 low[IMAGES]; vec4 span[IMAGES]; };
layout(std140) uniform Aggregation {
  mat4 W1[G_HIDDEN * IN]; vec4 b1[G_HIDDEN]; vec4 W2[G_HIDDEN]; vec4 b2; };
layout(location = 0) out uvec4 blended[IN / 2];

bool counts(int k, vec2 uv, float z) {
  if (!(z > 0.0) || any(lessThan(uv, vec2(0))) || any(greaterThan(uv, resolution))) return false;
  vec2 corner = floor(uv - 0.5), t = uv - 0.5 - corner;
  ivec2 last = ivec2(resolution) - 1, a = max(ivec2(corner), 0), b = min(ivec2(corner) + 1, last);
  mat4 taps = transpose(mat4(
    texelFetch(depths, ivec3(a, k), 0), texelFetch(depths, ivec3(b.x, a.y, k), 0),
    texelFetch(depths, ivec3(a.x, b.y, k), 0), texelFetch(depths, ivec3(b, k), 0)));
  vec4 shares = vec4((1.0 - t.x) * (1.0 - t.y), t.x * (1.0 - t.y), (1.0 - t.x) * t.y, t.x * t.y);
  vec4 codes = round(taps[0] * 255.0) * 256.0 + round(taps[1] * 255.0);
  if (dot(taps[2], shares) < 0.5 || any(lessThan(codes, vec4(0.5)))) return false;
  float D_k = mix(near_far[k].x, near_far[k].y, (dot(codes, shares) - 1.0) / 65534.0);
  return abs(z - D_k) <= depth_tolerance;
}

float G(vec4 x[IN]) {
  float l = b2.x;
  for (int o = 0; o < G_HIDDEN; o++) {
    vec4 h = b1[o];
    for (int i = 0; i < IN; i++) h += W1[o * IN + i] * x[i];
    l += dot(W2[o], max(h, 0.0));
  }
  return 1.0 / (1.0 + exp(-max(l, -15.0)));
}

// How near a view is in direction; m is the largest angle of the views that count.
float prior(float cosine, float m) {
  int kind = uses_G ? PRIOR : 1;
  float a = acos(cosine);
  if (kind == 1) return max(0.001, 1.0 - a / max(1e-6, m)) / max(0.001, a);
  return kind == 2 ? max(1e-6, cosine) : 1.0;
}

void main() {
  vec4 sum[IN], x[IN];                // over the views; of one view
  for (int i = 0; i < IN; i++) sum[i] = x[i] = vec4(0);
  vec3 c = vec3(0), uvz[K];
  float g_sum = 0.0, m = 0.0, cosine[K];
  uvec4 hit = hit_at(ivec2(gl_FragCoord.xy));
  vec3 p = uintBitsToFloat(hit.xyz), d = normalize(p - eye_obj);
  for (int k = 0; k < K && hit.w > 0u; k++) {
    uvz[k] = (object_to_uvz[k] * vec4(p, 1)).xyw;
    uvz[k].xy /= uvz[k].z;
    cosine[k] = clamp(dot(normalize(p - centre_obj[k].xyz), d), -0.999999, 0.999999);
    if (counts(k, uvz[k].xy, uvz[k].z)) m = max(m, acos(cosine[k]));
    else cosine[k] = -2.0;
  }
  for (int k = 0; k < K && hit.w > 0u; k++) {
    if (cosine[k] < -1.0) continue;   // does not count
    vec2 at = uvz[k].xy / resolution;
    float g = prior(cosine[k], m);
    if (uses_G) {
      for (int i = 0; i < IMAGES; i++) {
        vec3 bytes = textureLod(features, vec3(at, k * IMAGES + i), 0.0).rgb;
        x[i].xyz = low[i].xyz + span[i].xyz * bytes;
      }
      x[0].w = d.x; x[1].w = d.y; x[2].w = d.z;
      g *= G(x);
      for (int i = 0; i < IN; i++) sum[i] += g * x[i];
    }
    vec3 c_k = textureLod(photographs, vec3(at, k), 0.0).rgb;
    c += g * (shows_weights ? palette(k) : c_k);
    g_sum += g;
  }
  float scale = g_sum > 0.0 ? 1.0 / g_sum : 0.0;
  for (int i = 0; i < IN; i++) sum[i] *= scale;
  sum[0].w = c.r * scale; sum[1].w = c.g * scale; sum[2].w = c.b * scale;
  sum[3].w = g_sum > 0.0 ? 1.0 : 0.0;
  STORE(blended, sum)
}`;

// 4. The first convolution of D: 3x3, ReLU. Rows of a picture go down, those of a target up.
const DECODE_HIDDEN = `
uniform usampler2DArray blended;
layout(std140) uniform Decoder1 { mat4 W1[9 * D_HIDDEN * IN]; vec4 b1[D_HIDDEN]; };
layout(location = 0) out uvec4 hidden[D_HIDDEN / 2];

void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  bool is_near = false;               // to a hit; elsewhere all x are 0
  for (int tap = 0; tap < 9; tap++) {
    ivec2 at = pixel + ivec2(tap % 3 - 1, 1 - tap / 3);
    is_near = is_near || !is_outside(at) && hit_at(at).w > 0u;
  }
  vec4 h[D_HIDDEN], x[IN];
  for (int o = 0; o < D_HIDDEN; o++) h[o] = b1[o];
  for (int tap = is_near ? 0 : 9; tap < 9; tap++) {
    ivec2 at = pixel + ivec2(tap % 3 - 1, 1 - tap / 3);
    if (is_outside(at)) continue;
    for (int i = 0; i < IN; i += 2) {
      uvec4 pair = texelFetch(blended, ivec3(at, i / 2), 0);
      x[i] = unpacked(pair.xy);
      x[i + 1] = unpacked(pair.zw);
    }
    for (int o = 0; o < D_HIDDEN; o++)
      for (int i = 0; i < IN; i++) h[o] += W1[(tap * D_HIDDEN + o) * IN + i] * x[i];
  }
  for (int o = 0; o < D_HIDDEN; o++) h[o] = max(h[o], 0.0);
  STORE(hidden, h)
}`;

// The second convolution of D, added to the blended colour; or another output; then the outline.
const PICTURE = `
uniform usampler2DArray blended, hidden;
uniform sampler2DArray coverage;
uniform vec3 background, eye_obj;
uniform vec2 near_far;                // distances between which depth goes from white to dark
uniform int shown;                    // 0: D, 1: blended colours, 2: normals, 3: depth, 4: mesh
layout(std140) uniform Decoder2 { mat4 W2[9 * D_HIDDEN]; vec4 b2; };
out vec4 colour;

vec4 blended_colour(ivec2 at) {       // c, seen
  uvec4 a = texelFetch(blended, ivec3(at, 0), 0), b = texelFetch(blended, ivec3(at, 1), 0);
  return vec4(unpacked(a.xy).w, unpacked(a.zw).w, unpacked(b.xy).w, unpacked(b.zw).w);
}

vec3 D(ivec2 pixel, float a) {
  vec4 y = blended_colour(pixel) + b2;
  for (int tap = shown == 0 && a > 0.0 ? 0 : 9; tap < 9; tap++) {
    ivec2 at = pixel + ivec2(tap % 3 - 1, 1 - tap / 3);
    if (is_outside(at)) continue;
    for (int i = 0; i < D_HIDDEN; i += 2) {
      uvec4 pair = texelFetch(hidden, ivec3(at, i / 2), 0);
      y += W2[tap * D_HIDDEN + i] * unpacked(pair.xy);
      y += W2[tap * D_HIDDEN + i + 1] * unpacked(pair.zw);
    }
  }
  return y.rgb;
}

// Any other output, of the pixel's hit; of a pixel at the outline, that of the hits around it.
vec3 output_at(ivec2 pixel, float a) {
  vec4 sum = vec4(0);
  for (int tap = shown > 0 && a > 0.0 ? 0 : 9; tap < 9; tap++) {
    ivec2 at = pixel + ivec2((tap + 4) % 9 % 3 - 1, (tap + 4) % 9 / 3 - 1);   // the centre first
    uvec4 hit = hit_at(at);
    if (is_outside(at) || hit.w == 0u) continue;
    vec3 n = normal_of(hit.w), ray = uintBitsToFloat(hit.xyz) - eye_obj;
    if (shown == 1) sum += blended_colour(at);
    if (shown == 2) sum += vec4(n * 0.5 + 0.5, 1);
    if (shown == 3) sum += vec4(vec3(smoothstep(near_far.y, near_far.x, length(ray))), 1);
    if (shown == 4) sum += vec4(vec3(0.18 + 0.72 * abs(dot(n, normalize(ray)))), 1);
    if (sum.w > 0.0 && tap == 0) break;
  }
  return sum.w > 0.0 ? sum.rgb / sum.w : vec3(0.5);
}

void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  float a = 0.0;
  for (int i = 0; i < 4; i++)
    a += 0.25 * texelFetch(coverage, ivec3(2 * pixel + ivec2(i & 1, i >> 1), 0), 0).r;
  vec3 y = a == 0.0 ? background : shown == 0 ? D(pixel, a) : output_at(pixel, a);
  colour = vec4(mix(background, clamp(y, 0.0, 1.0), a), 1);
}`;

// A photograph as its camera took it.
const PHOTOGRAPH = `
uniform vec2 fit, size;               // of the view in NDC; of the canvas in pixels
uniform int view;
uniform vec3 background;
out vec4 colour;
void main() {
  vec2 xy = (2.0 * gl_FragCoord.xy / size - 1.0) / fit;
  vec2 uv = vec2(xy.x, -xy.y) * 0.5 + 0.5;
  bool is_inside = all(lessThanEqual(abs(xy), vec2(1)));
  colour = vec4(is_inside ? textureLod(photographs, vec3(uv, view), 0.0).rgb : background, 1);
}`;

// Source cameras: photographs on their image planes (uv inside), and edges.
const FRUSTUM_VERTEX = `
uniform mat4 object_to_clip;
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 at;      // u, v of the photograph, -1 on edges; the view's number
out vec3 place, p_obj;
void main() { place = at; p_obj = position; gl_Position = object_to_clip * vec4(position, 1); }`;

const FRUSTUM = `
in vec3 place, p_obj;
uniform vec3 eye_obj;
out vec4 colour;
void main() {
  uvec4 hit = hit_at(ivec2(gl_FragCoord.xy));
  float reach = length(uintBitsToFloat(hit.xyz) - eye_obj);
  if (hit.w > 0u && reach < length(p_obj - eye_obj)) discard;          // behind the object
  int k = int(place.z + 0.5);
  colour = textureLod(photographs, vec3(place.xy, k), 0.0);
  if (place.x < 0.0) colour.rgb = palette(k);
}`;
