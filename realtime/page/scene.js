// From the parts of an exported scene (docs/scene_format.md) to what the renderer draws.

/** Bytes of a part that came as base64. */
function bytesOf(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** What the page holds deflated: everything but images. */
const inflated = async bytes => new Uint8Array(await new Response(new Blob([bytes]).stream()
  .pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());

/** Pixels as they are in the file: no colour conversion, no alpha. */
const imageOf = bytes => createImageBitmap(new Blob([bytes], {type: "image/webp"}),
  {premultiplyAlpha: "none", colorSpaceConversion: "none"});

/** Everything that is drawn, from the description and a function that returns a part's bytes. */
async function readScene(description, part) {
  const {format, version, views} = description;
  if (format !== "neural-lumigraph-scene" || version !== 1)
    throw new Error(`the scene is of format ${format} ${version}, this page shows version 1`);
  const images = list => Promise.all(list.map(name => imageOf(part(name))));
  const numbers = new Float32Array((await inflated(part("blocks"))).buffer);
  const blocks = Object.fromEntries(Object.entries(description.blocks).map(
    ([name, [start, end]]) => [name, numbers.subarray(start, end)]));
  return {description, blocks, mesh: meshOf(await inflated(part("mesh")), description.num_vertices),
    frustums: frustumsOf(description),
    photographs: await images(views.map(view => view.photograph)),
    depths: await images(views.map(view => view.depth)),
    features: await images(views.flatMap(view => view.features))};
}

/** Positions (float32) and then the corners of triangles (uint32), of so many vertices. */
function meshOf({buffer}, numVertices) {
  const positions = new Float32Array(buffer, 0, 3 * numVertices);
  const indices = new Uint32Array(buffer, 12 * numVertices);
  return {positions, indices, normals: normalsOf(positions, indices)};
}

/** The cross products of the triangles at each vertex, summed; not of unit length. */
function normalsOf(positions, indices) {
  const normals = new Float32Array(positions.length);
  const at = i => positions.subarray(3 * i, 3 * i + 3);
  for (let f = 0; f < indices.length; f += 3) {
    const [a, b, c] = [at(indices[f]), at(indices[f + 1]), at(indices[f + 2])];
    for (let i = 0; i < 3; i++) {
      const [j, k] = [(i + 1) % 3, (i + 2) % 3];
      const n = (b[j] - a[j]) * (c[k] - a[k]) - (b[k] - a[k]) * (c[j] - a[j]);
      for (let v = 0; v < 3; v++) normals[3 * indices[f + v] + i] += n;
    }
  }
  return normals;
}

/** A source view's camera: axes and centre, object space. */
function cameraOf({object_to_camera: m}) {
  const [right, up, back] = m.slice(0, 3).map(row => row.slice(0, 3));
  const eye = right.map((_, i) => -(right[i] * m[0][3] + up[i] * m[1][3] + back[i] * m[2][3]));
  return {right, up, back, eye};
}

/** A source view's lens, NDC. */
function lensOf({intrinsics: {fx, fy, cx, cy, skew}}, [width, height]) {
  return {fx: 2 * fx / width, skew: -2 * skew / width, cx: 1 - 2 * cx / width,
    fy: 2 * fy / height, cy: 2 * cy / height - 1};
}

/** Corners of a view's image plane at a distance from its camera, object space, and their u, v. */
function imagePlane(view, resolution, distance) {
  const {right, up, back, eye} = cameraOf(view), lens = lensOf(view, resolution);
  return [[-1, 1], [1, 1], [1, -1], [-1, -1]].map(([x, y]) => {
    const py = (y + lens.cy) / lens.fy, px = (x + lens.cx - lens.skew * py) / lens.fx;
    const corner = right.map((_, i) => eye[i] + distance * (px * right[i] + py * up[i] - back[i]));
    return {corner, uv: [(x + 1) / 2, (1 - y) / 2]};
  });
}

/** Two triangles with the photograph and eight edges for each source view. */
function frustumsOf({views, resolution}) {
  const planes = [], edges = [];                       // (point, place) of each vertex
  views.forEach((view, k) => {
    const corners = imagePlane(view, resolution, FRUSTUM_LENGTH), {eye} = cameraOf(view);
    for (const i of [0, 1, 2, 0, 2, 3]) planes.push([corners[i].corner, [...corners[i].uv, k]]);
    corners.forEach(({corner}, i) => {
      for (const end of [corner, eye, corner, corners[(i + 1) % 4].corner])
        edges.push([end, [-1, -1, k]]);
    });
  });
  const column = i => new Float32Array([...planes, ...edges].flatMap(vertex => vertex[i]));
  return {positions: column(0), places: column(1)};
}

/** The same scene for cards that cannot hold it all: photographs are blended by angle alone. */
function withoutNetworks(scene) {
  const sizes = {...scene.description.sizes, IMAGES: 1, IN: 4, G_HIDDEN: 1, D_HIDDEN: 2};
  const zeros = new Float32Array(1024), blocks = {Sources: scene.blocks.Sources, Range: zeros,
    Aggregation: zeros, Decoder1: zeros, Decoder2: zeros};
  return {...scene, blocks, features: scene.photographs.slice(0, 1),
    description: {...scene.description, sizes}};
}
