// The scene on the graphics card, and the passes that make a picture of it.

const SHOWN = {picture: 0, weights: 1, normals: 2, depth: 3, mesh: 4};

class Renderer {
  /** Compile the passes and upload the scene; throws an Error that says what the card lacks. */
  constructor(gl, scene) {
    const {views, resolution, sizes} = scene.description;
    Object.assign(this, {gl, scene, sizes});
    const most = gl.getParameter(gl.MAX_ARRAY_TEXTURE_LAYERS);
    if (views.length * sizes.IMAGES > most)
      throw new Error(`it holds ${most} images, and the scene has ${views.length * sizes.IMAGES}`);
    this.programs = {
      surface: this.program(SURFACE_VERTEX, SURFACE),
      coverage: this.program(SURFACE_VERTEX, COVERAGE),
      aggregate: this.program(QUAD_VERTEX, AGGREGATE),
      hidden: this.program(QUAD_VERTEX, DECODE_HIDDEN),
      picture: this.program(QUAD_VERTEX, PICTURE),
      photograph: this.program(QUAD_VERTEX, PHOTOGRAPH),
      frustums: this.program(FRUSTUM_VERTEX, FRUSTUM)};
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    this.maps = {};
    for (const name of ["photographs", "features", "depths"]) {
      const images = scene[name], [width, height] = resolution;
      this.maps[name] = this.layers(gl.RGB8, width, height, images.length, gl.LINEAR);
      images.forEach((image, layer) => gl.texSubImage3D(gl.TEXTURE_2D_ARRAY, 0, 0, 0, layer, width,
        height, 1, gl.RGB, gl.UNSIGNED_BYTE, image));
    }
    Object.entries(scene.blocks).forEach(
      ([name, numbers], index) => this.uniformBlock(name, numbers, index));
    this.mesh = this.vertices(scene.mesh.positions, scene.mesh.normals, scene.mesh.indices);
    this.frustums = this.vertices(scene.frustums.positions, scene.frustums.places);
    gl.depthFunc(gl.LEQUAL);
  }

  /** A linked program with the places of its uniforms. */
  program(vertex, fragment) {
    const gl = this.gl, program = gl.createProgram(), texts = [];
    const define = ([name, number]) => `#define ${name} ${number}\n`;
    const defines = Object.entries(this.sizes).map(define).join("");
    const layers = {blended: this.sizes.IN / 2, hidden: this.sizes.D_HIDDEN / 2};
    const filled = defines + COMMON + fragment.replace(/STORE\((\w+), (\w+)\)/, (_, out, from) =>
      Array.from({length: layers[out]}, (_, i) => `${out}[${i}] = ` +
        `uvec4(packed(${from}[${2 * i}]), packed(${from}[${2 * i + 1}]));`).join(""));
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, filled]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, "#version 300 es\n" + text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      texts.push(() => gl.getShaderInfoLog(shader));
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost())
      throw new Error("it does not take the shaders: " + gl.getProgramInfoLog(program) +
        texts.map(text => text()).join(" "));
    const places = {};
    for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
      const {name, type} = gl.getActiveUniform(program, i);
      places[name] = [gl.getUniformLocation(program, name), type];
    }
    return {program, places};
  }

  /** An empty texture of several layers. */
  layers(format, width, height, count, filter) {
    const gl = this.gl, kind = gl.TEXTURE_2D_ARRAY, texture = gl.createTexture();
    gl.bindTexture(kind, texture);
    gl.texStorage3D(kind, 1, format, width, height, count);
    for (const name of ["MIN_FILTER", "MAG_FILTER"])
      gl.texParameteri(kind, gl["TEXTURE_" + name], filter);
    for (const name of ["WRAP_S", "WRAP_T"])
      gl.texParameteri(kind, gl["TEXTURE_" + name], gl.CLAMP_TO_EDGE);
    return texture;
  }

  /** Numbers in a uniform block, which every program that has the block reads. */
  uniformBlock(name, numbers, index) {
    const gl = this.gl, buffer = gl.createBuffer();
    if (numbers.byteLength > gl.getParameter(gl.MAX_UNIFORM_BLOCK_SIZE))
      throw new Error(`it takes no ${numbers.byteLength} bytes of weights (${name})`);
    gl.bindBufferBase(gl.UNIFORM_BUFFER, index, buffer);
    gl.bufferData(gl.UNIFORM_BUFFER, numbers, gl.STATIC_DRAW);
    for (const {program} of Object.values(this.programs)) {
      const block = gl.getUniformBlockIndex(program, name);
      if (block !== gl.INVALID_INDEX) gl.uniformBlockBinding(program, block, index);
    }
  }

  /** Two attributes of three floats each, and triangles if indices are given. */
  vertices(first, second, indices = null) {
    const gl = this.gl, array = gl.createVertexArray();
    gl.bindVertexArray(array);
    [first, second].forEach((numbers, place) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, numbers, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    });
    if (indices) {
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
    }
    gl.bindVertexArray(null);
    return array;
  }

  /** Make the maps between the passes anew if the canvas has another size than they. */
  resize() {
    const gl = this.gl, {width, height} = gl.canvas;
    if (this.size && this.size[0] === width && this.size[1] === height) return;
    for (const {texture, framebuffer, depth} of Object.values(this.targets || {})) {
      gl.deleteTexture(texture);
      gl.deleteFramebuffer(framebuffer);
      gl.deleteRenderbuffer(depth);
    }
    this.size = [width, height];
    this.targets = {hits: this.target(gl.RGBA32UI, 1), coverage: this.target(gl.R8, 1, 2),
      blended: this.target(gl.RGBA32UI, this.sizes.IN / 2),
      hidden: this.target(gl.RGBA32UI, this.sizes.D_HIDDEN / 2)};
    for (const [name, {texture}] of Object.entries(this.targets)) this.maps[name] = texture;
  }

  /** Maps of the canvas' size times `factor`, one a layer, with a depth buffer. */
  target(format, count, factor = 1) {
    const gl = this.gl, [width, height] = this.size.map(side => side * factor);
    const framebuffer = gl.createFramebuffer(), depth = gl.createRenderbuffer();
    const texture = this.layers(format, width, height, count, gl.NEAREST);
    const places = Array.from({length: count}, (_, i) => gl.COLOR_ATTACHMENT0 + i);
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    places.forEach((place, i) => gl.framebufferTextureLayer(gl.FRAMEBUFFER, place, texture, 0, i));
    gl.drawBuffers(places);
    gl.bindRenderbuffer(gl.RENDERBUFFER, depth);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.DEPTH_COMPONENT24, width, height);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.RENDERBUFFER, depth);
    return {texture, framebuffer, depth, width, height};
  }

  /** Begin a pass into a target (none: the canvas) with a program and its uniforms by name. */
  begin(name, target, values) {
    const gl = this.gl, {program, places} = this.programs[name], [width, height] = this.size;
    gl.bindFramebuffer(gl.FRAMEBUFFER, target ? target.framebuffer : null);
    gl.viewport(0, 0, target ? target.width : width, target ? target.height : height);
    gl.useProgram(program);
    let unit = 0;
    for (const [key, [place, type]] of Object.entries(places)) {
      const value = values[key];
      if (value === undefined) {                       // a map; or it lies in a uniform block
        if (!(key in this.maps)) continue;
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D_ARRAY, this.maps[key]);
        gl.uniform1i(place, unit++);
      } else if (type === gl.FLOAT_MAT4) gl.uniformMatrix4fv(place, true, value);
      else if (type === gl.FLOAT_VEC3) gl.uniform3fv(place, value);
      else if (type === gl.FLOAT_VEC2) gl.uniform2fv(place, value);
      else if (type === gl.FLOAT) gl.uniform1f(place, value);
      else gl.uniform1i(place, value);
    }
  }

  drawQuad() { this.gl.drawArrays(this.gl.TRIANGLES, 0, 3); }

  /** The mesh into the target of the pass, in front of nothing. */
  drawMesh() {
    const gl = this.gl;
    gl.clearBufferfv(gl.DEPTH, 0, [1]);
    gl.enable(gl.DEPTH_TEST);
    gl.bindVertexArray(this.mesh);
    gl.drawElements(gl.TRIANGLES, this.scene.mesh.indices.length, gl.UNSIGNED_INT, 0);
    gl.bindVertexArray(null);
    gl.disable(gl.DEPTH_TEST);
  }

  /** Draw one picture: `output` is a button's name, `usesG` false for the fallback. */
  draw({camera, object_to_clip, output, usesG, nearest, fit, showsCameras}) {
    const gl = this.gl, {description} = this.scene;
    this.resize();
    const {hits, coverage, blended, hidden} = this.targets, distance = Math.hypot(...camera.eye);
    const common = {object_to_clip, eye_obj: camera.eye, background: this.background};
    this.begin("surface", hits, common);
    gl.clearBufferuiv(gl.COLOR, 0, [0, 0, 0, 0]);
    this.drawMesh();
    if (output === "photograph") {
      this.begin("photograph", null, {...common, fit, size: this.size, view: nearest});
      this.drawQuad();
    } else {
      this.begin("coverage", coverage, common);
      gl.clearBufferfv(gl.COLOR, 0, [0, 0, 0, 0]);
      this.drawMesh();
      if (SHOWN[output] < 2) {
        this.begin("aggregate", blended, {...common, resolution: description.resolution,
          depth_tolerance: description.depth_tolerance, uses_G: usesG,
          shows_weights: output === "weights"});
        this.drawQuad();
      }
      if (output === "picture" && usesG) {
        this.begin("hidden", hidden, common);
        this.drawQuad();
      }
      this.begin("picture", null, {...common, near_far: [distance - 1, distance + 1],
        shown: output === "picture" && !usesG ? 1 : SHOWN[output]});
      this.drawQuad();
    }
    if (showsCameras) this.drawFrustums(common);
  }

  drawFrustums(common) {
    const gl = this.gl, count = this.scene.description.views.length;
    this.begin("frustums", null, common);
    gl.bindVertexArray(this.frustums);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.DEPTH_BUFFER_BIT);
    gl.drawArrays(gl.TRIANGLES, 0, 6 * count);
    gl.drawArrays(gl.LINES, 6 * count, 16 * count);
    gl.disable(gl.DEPTH_TEST);
    gl.bindVertexArray(null);
  }
}
