// The page: progress, buttons, hands on the camera, and which frame is drawn when.

const MOST_RATIO = 2, MOST_PIXELS = 1.5e6;             // device pixel ratio; pixels of the canvas
const FRUSTUM_LENGTH = 0.35;                           // object units
const SWING = 0.5, SWING_SECONDS = 8, SWINGS = 2;      // radians to each side; before it rests
const TRAVEL_SECONDS = 0.5, REST_SECONDS = 0.2;        // to another camera; until a hand is still
const SLOW_FRAME = 150, SLOW_FRAMES = 4;               // ms; in a row, before something gives way
const EFFORTS = [[1, true], [0.6, true], [0.6, false]];  // canvas while moving; with G and D
const DARK = [0.085, 0.095, 0.11];
const PICK_DISTANCE = 30;                              // CSS pixels
const FALLBACK_NOTE = "Photographs are blended without the networks.";
const SLOW_NOTE = "Slow graphics: while it moves, photographs are blended without the networks.";

const element = id => document.getElementById(id);
const switches = new URLSearchParams(location.search);
const isReduced = matchMedia("(prefers-reduced-motion: reduce)");
const isDark = matchMedia("(prefers-color-scheme: dark)");
const page = {}, parts = {};

/** Write a sentence under the picture; it is text, whatever it holds. */
function say(text) { element("status").textContent = text; }

/** Called by the page for each part of the scene, as it arrives. */
function part(name, base64) {
  parts[name] = bytesOf(base64);
  const {description} = page, sum = list => list.reduce((total, {bytes}) => total + bytes, 0);
  const there = description.parts.filter(({name}) => name in parts);
  element("progress").value = sum(there) / sum(description.parts);
  if (there.length === description.parts.length) page.resolve();
}

/** Wait for all parts, then show the scene; every failure is a sentence beside the poster. */
async function start() {
  const canvas = element("canvas"), all = new Promise(resolve => { page.resolve = resolve; });
  page.description = JSON.parse(element("scene").textContent);
  const gl = switches.has("no_webgl2") ? null : canvas.getContext("webgl2",
    {alpha: false, antialias: false, powerPreference: "high-performance"});
  if (!gl) throw new Error("this browser has no WebGL2");
  addEventListener("load", () => {
    const lacking = page.description.parts.find(({name}) => !(name in parts));
    if (lacking) fail(new Error(`${lacking.name} is missing`));
  });
  await all;
  const scene = await readScene(page.description, name => parts[name]);
  page.viewer = new Viewer(canvas, gl, scene);
  element("controls").hidden = false;
  element("stats").hidden = !switches.has("stats");
  document.body.dataset.state = "shown";
}

function fail(error) {
  document.body.dataset.state = "failed";
  say(`The scene cannot be shown: ${error.message}. The picture above is a poster of it.`);
}

class Viewer {
  constructor(canvas, gl, scene) {
    Object.assign(this, {canvas, gl, scene, output: "picture", pointers: new Map(), note: "",
      effort: 0, slowFrames: 0, movedAt: -1e9, usesNetworks: !switches.has("fallback")});
    const {views, resolution, up} = scene.description;
    this.aspect = resolution[0] / resolution[1];
    this.up = up;
    this.sources = views.map(view => ({camera: cameraOf(view), lens: lensOf(view, resolution)}));
    this.makeRenderer();
    this.goHome();
    listen(this);
    this.swing(!isReduced.matches);
    this.paint(EFFORTS[EFFORTS.length - 1]);           // at once; the full picture follows
    this.mean = null;
  }

  /** With the networks if the card can hold them, else with blended photographs alone. */
  makeRenderer() {
    try {
      this.note = this.usesNetworks ? "" : FALLBACK_NOTE;
      this.renderer = new Renderer(this.gl, this.scene);
    } catch (error) {
      this.usesNetworks = false;
      this.note = `${FALLBACK_NOTE} Of this graphics card: ${error.message}.`;
      this.renderer = new Renderer(this.gl, withoutNetworks(this.scene));
    }
  }

  /** The source view that looks most as all of them do on average. */
  goHome() {
    const sum = this.sources.reduce((total, {camera}) => add(total, camera.back), [0, 0, 0]);
    const agreement = this.sources.map(({camera}) => dot(camera.back, sum));
    this.travel(this.sources[agreement.indexOf(Math.max(...agreement))], [0, 0, 0]);
  }

  stand(k) {
    this.swing(false);
    this.travel(this.sources[k]);
    element("stand").value = k;
  }

  /** To another camera and lens; at once where motion is to be reduced. */
  travel({camera, lens}, pivot = this.pivot) {
    this.pivot = pivot;
    this.journey = {from: {camera: this.camera || camera, lens: this.lens || lens},
      to: {camera, lens}, begin: isReduced.matches || !this.camera ? -1e9 : null};
    this.advance(0);
    this.change();
  }

  /** From side to side, as long as nobody takes hold. */
  swing(isOn) {
    this.swinging = isOn && {angle: 0};
    element("turn").setAttribute("aria-pressed", isOn);
    this.change();
  }

  /** Move on what moves by itself; returns whether anything does. */
  advance(now) {
    const {journey, swinging} = this;
    if (journey) {
      const t = clamp((now - (journey.begin ??= now)) / (1000 * TRAVEL_SECONDS), 0, 1);
      const {from, to} = journey, share = t * t * (3 - 2 * t);
      this.camera = t < 1 ? between(from.camera, to.camera, share) : to.camera;
      this.lens = Object.fromEntries(Object.keys(to.lens).map(
        key => [key, from.lens[key] + share * (to.lens[key] - from.lens[key])]));
      if (t === 1) this.journey = null;
    } else if (swinging) {
      const turns = (now - (swinging.begin ??= now)) / (1000 * SWING_SECONDS);
      const angle = turns < SWINGS ? SWING * Math.sin(2 * Math.PI * turns) : 0;
      this.orbit(angle - swinging.angle, 0);
      swinging.angle = angle;
      if (turns >= SWINGS) this.swing(false);
    }
    return Boolean(this.journey || this.swinging);
  }

  /** Ask for a frame, as something has changed. */
  change(isChanged = true) {
    this.isChanged ||= isChanged;
    this.scheduled ||= requestAnimationFrame(now => { this.scheduled = 0; this.frame(now); });
  }

  /** Draw, unless the card is still busy with the frame before. */
  frame(now) {
    const {gl} = this;
    if (this.fence) {
      if (gl.clientWaitSync(this.fence, 0, 0) === gl.TIMEOUT_EXPIRED) return this.change(false);
      gl.deleteSync(this.fence);
      this.fence = null;
      this.measure(now - this.begun);
    }
    const isMoving = this.advance(now) || now - this.movedAt < 1000 * REST_SECONDS;
    const effort = EFFORTS[isMoving ? this.effort : 0];
    if (isMoving || this.isChanged || effort !== this.drawnEffort || switches.has("stats")) {
      this.isChanged = false;
      this.begun = now;
      this.paint(effort);
      this.fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
      gl.flush();
    }
    if (isMoving || this.fence) this.change(false);
  }

  /** Less effort while moving after several slow frames; figures for `?stats`. */
  measure(time) {
    this.mean = 0.9 * (this.mean ?? time) + 0.1 * time;
    element("stats").textContent = `${(1000 / this.mean).toFixed(1)} frames/s, ` +
      `${this.mean.toFixed(1)} ms, ${this.canvas.width} x ${this.canvas.height}`;
    const isSlow = this.drawnEffort === EFFORTS[this.effort] && time > SLOW_FRAME;
    this.slowFrames = isSlow ? this.slowFrames + 1 : 0;
    if (this.slowFrames < SLOW_FRAMES || this.effort === EFFORTS.length - 1) return;
    this.slowFrames = 0;
    this.effort += 1;
    if (!EFFORTS[this.effort][1]) this.note ||= SLOW_NOTE;
  }

  /** One picture with (scale of the canvas, whether G and D are used), and the sentence to it. */
  paint(effort) {
    this.drawnEffort = effort;
    const {width, height} = this.canvas.getBoundingClientRect();
    const most = Math.sqrt(MOST_PIXELS / Math.max(width * height, 1));
    const ratio = Math.min(devicePixelRatio, MOST_RATIO, most) * effort[0];
    this.paintAt(Math.round(width * ratio), Math.round(height * ratio), effort[1]);
    const nearest = `Source view ${this.scene.description.views[this.nearest].name}.`;
    say([this.output === "photograph" ? nearest : "", this.note].join(" ").trim());
  }

  paintAt(width, height, usesNetworks) {
    const {canvas, camera, output} = this;
    if (canvas.width !== width) canvas.width = Math.max(width, 1);
    if (canvas.height !== height) canvas.height = Math.max(height, 1);
    const angles = this.sources.map(source => angleBetween(source.camera, camera));
    const fit = fitOf(this.aspect, canvas.width / canvas.height);
    this.nearest = angles.indexOf(Math.min(...angles));
    this.clip = objectToClip(camera, fitted(this.lens, fit));
    this.renderer.background = isDark.matches ? DARK : this.scene.description.background;
    this.renderer.draw({camera, object_to_clip: this.clip, output, nearest: this.nearest, fit,
      usesG: usesNetworks && this.usesNetworks,
      showsCameras: this.showsCameras && output !== "photograph"});
  }

  /** What a camera in the scene's format sees, drawn at once; for pages around this one. */
  show({view, width, height}) {
    this.swing(false);
    Object.assign(this, {camera: cameraOf(view), lens: lensOf(view, [width, height]),
      journey: null, aspect: width / height});
    this.paintAt(width, height, true);
  }

  orbit(yaw, pitch) { this.camera = orbited(this.camera, this.pivot, this.up, yaw, pitch); }

  zoom(factor) { this.camera = zoomed(this.camera, this.pivot, factor); }

  pan(x, y) {
    const fit = fitOf(this.aspect, this.canvas.width / this.canvas.height);
    [this.camera, this.pivot] = panned(this.camera, this.pivot, fitted(this.lens, fit), x, y);
  }

  /** Somebody takes hold: what moves by itself stops. */
  take(move) {
    this.journey = null;
    if (this.swinging) this.swing(false);
    move();
    this.movedAt = performance.now();
    element("stand").value = "";
    this.change();
  }

  /** Source cameras from further away and aside, or back. */
  showCameras(isOn) {
    this.showsCameras = isOn;
    element("cameras").setAttribute("aria-pressed", isOn);
    this.swing(false);
    const [factor, turn] = isOn ? [2.4, 0.25] : [1 / 2.4, -0.25];
    const camera = zoomed(this.camera, this.pivot, factor);
    this.travel({camera: orbited(camera, this.pivot, this.up, turn, turn), lens: this.lens});
  }

  /** Stand in the source camera whose frustum was clicked, if any was. */
  pick(x, y) {
    const {left, top, width, height} = this.canvas.getBoundingClientRect();
    const {views, resolution} = this.scene.description;
    views.forEach((view, k) => {
      const corners = imagePlane(view, resolution, FRUSTUM_LENGTH).map(({corner}) => corner);
      const at = projected(this.clip, scaled(corners.reduce((a, b) => add(a, b)), 0.25));
      const distance = at && Math.hypot(left + (at[0] + 1) / 2 * width - x,
        top + (1 - at[1]) / 2 * height - y);
      if (at && distance < PICK_DISTANCE) this.stand(k);
    });
  }
}
