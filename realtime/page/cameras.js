// Cameras and how the hand moves them. Object space is that of the scene's mesh; camera axes are
// OpenGL's (x right, y up, looking down -z). Matrices are arrays of 16 numbers, row by row.
// A camera is {right, up, back, eye}: its axes and its centre in object space; and its lens
// {fx, fy, skew, cx, cy}: the upper left part of its projection matrix, camera to NDC.

const add = (a, b, s = 1) => a.map((value, i) => value + s * b[i]);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2],
  a[0] * b[1] - a[1] * b[0]];
const scaled = (a, s) => a.map(value => value * s);
const unit = a => scaled(a, 1 / Math.max(Math.hypot(...a), 1e-12));
const mixed = (a, b, t) => a.map((value, i) => value + t * (b[i] - value));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Vector `a` turned about a unit axis by an angle in radians (Rodrigues' formula). */
function turned(a, axis, angle) {
  const [s, c] = [Math.sin(angle), Math.cos(angle)];
  return add(add(scaled(a, c), cross(axis, a), s), axis, dot(axis, a) * (1 - c));
}

/** Object space to NDC times depth (x, y), depth along -z (w); the third row is for depth tests. */
function objectToClip(camera, lens) {
  const row = axis => [...axis, -dot(axis, camera.eye)];
  const [x, y, z] = [row(camera.right), row(camera.up), row(camera.back)];
  const [near, far] = [0.02, 50];
  const sum = (a, b, c) => x.map((value, i) => a * value + b * y[i] + c * z[i]);
  const depth = scaled(z, -(far + near) / (far - near));
  depth[3] -= 2 * far * near / (far - near);
  return [...sum(lens.fx, lens.skew, lens.cx), ...sum(0, lens.fy, lens.cy), ...depth,
    ...scaled(z, -1)];
}

/** Factors on NDC for a canvas of another aspect ratio: all that a source view shows is visible. */
const fitOf = (sourceAspect, aspect) => aspect > sourceAspect ? [sourceAspect / aspect, 1]
  : [1, aspect / sourceAspect];

const fitted = (lens, [x, y]) => (
  {fx: lens.fx * x, skew: lens.skew * x, cx: lens.cx * x, fy: lens.fy * y, cy: lens.cy * y});

/** The camera turned about a pivot: yaw about the scene's up direction, pitch about its right. */
function orbited(camera, pivot, up, yaw, pitch) {
  const height = Math.asin(clamp(dot(unit(add(camera.eye, pivot, -1)), up), -1, 1));
  const [low, high] = [Math.min(-1.48 - height, 0), Math.max(1.48 - height, 0)];
  const lift = clamp(pitch, low, high);                // never over the poles
  const turn = a => turned(turned(a, camera.right, -lift), up, yaw);
  return {right: turn(camera.right), up: turn(camera.up), back: turn(camera.back),
    eye: add(pivot, turn(add(camera.eye, pivot, -1)))};
}

/** The camera moved sideways by (x, y) in NDC at the pivot's depth; returns camera and pivot. */
function panned(camera, pivot, lens, x, y) {
  const depth = dot(add(camera.eye, pivot, -1), camera.back);
  const shift = add(scaled(camera.right, -x * depth / lens.fx), camera.up, -y * depth / lens.fy);
  return [{...camera, eye: add(camera.eye, shift)}, add(pivot, shift)];
}

/** The camera at `factor` times its distance from the pivot, which stays between the bounds. */
function zoomed(camera, pivot, factor) {
  const offset = add(camera.eye, pivot, -1), distance = Math.hypot(...offset);
  return {...camera, eye: add(pivot, offset, clamp(distance * factor, 0.3, 20) / distance)};
}

/** Between two cameras, t from 0 to 1; axes are made orthonormal again. */
function between(a, b, t) {
  const back = unit(mixed(a.back, b.back, t));
  const right = unit(cross(mixed(a.up, b.up, t), back));
  return {right, up: cross(back, right), back, eye: mixed(a.eye, b.eye, t)};
}

/** Angle in radians between the directions in which two cameras look. */
const angleBetween = (a, b) => Math.acos(clamp(dot(a.back, b.back), -1, 1));

/** A point's place in NDC, or null behind the camera. */
function projected(clip, point) {
  const [x, y, , w] = [0, 4, 8, 12].map(i => dot(clip.slice(i, i + 3), point) + clip[i + 3]);
  return w > 0 ? [x / w, y / w] : null;
}
