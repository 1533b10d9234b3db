// Buttons, mouse, fingers and keys; then the page begins.

const KEYS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
const ZOOM_KEYS = {"+": 0.9, "=": 0.9, "-": 1 / 0.9};
const KEY_TURN = 0.1, DRAG_TURN = 5, CLICK = 4;        // radians; radians a canvas; CSS pixels

function listen(viewer) {
  const {canvas} = viewer, on = (target, name, act) => target.addEventListener(name, act);
  const buttons = [...document.querySelectorAll("button[data-output]")];
  for (const button of buttons) on(button, "click", () => {
    viewer.output = button.dataset.output;
    buttons.forEach(other => other.setAttribute("aria-pressed", other === button));
    viewer.change();
  });
  viewer.scene.description.views.forEach(({name}, k) => element("stand").add(new Option(name, k)));
  on(element("stand"), "change", ({target}) => target.value && viewer.stand(target.value));
  on(element("cameras"), "click", () => viewer.showCameras(!viewer.showsCameras));
  on(element("turn"), "click", () => viewer.swing(!viewer.swinging));
  on(element("home"), "click", () => { viewer.swing(false); viewer.goHome(); });
  on(canvas, "keydown", event => pressKey(viewer, event));
  on(canvas, "contextmenu", event => event.preventDefault());
  on(canvas, "wheel", event => {
    if (window !== top && document.activeElement !== canvas) return;   // the outer page scrolls
    event.preventDefault();
    viewer.take(() => viewer.zoom(Math.exp(clamp(event.deltaY, -200, 200) / 800)));
  });
  for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel"])
    on(canvas, name, event => moveHand(viewer, event));
  on(canvas, "webglcontextlost", event => event.preventDefault());    // so that it comes back
  on(canvas, "webglcontextrestored", () => {
    Object.assign(viewer, {fence: null, drawnEffort: null});
    viewer.makeRenderer();
    viewer.change();
  });
  on(isDark, "change", () => viewer.change());
  new ResizeObserver(() => viewer.change()).observe(canvas);
}

function pressKey(viewer, event) {
  const [x, y] = KEYS[event.key] || [0, 0], factor = ZOOM_KEYS[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "0") viewer.goHome();
  else if (factor) viewer.take(() => viewer.zoom(factor));
  else if (x || y) viewer.take(() => event.shiftKey ? viewer.pan(KEY_TURN * x, KEY_TURN * y)
    : viewer.orbit(KEY_TURN * x, KEY_TURN * y));
  else return;
  event.preventDefault();
}

/** One finger or the left button turns; two fingers, another button or Shift move and zoom. */
function moveHand(viewer, event) {
  const {pointers, canvas} = viewer, before = pointers.get(event.pointerId);
  const now = {x: event.clientX, y: event.clientY};
  const apart = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
  if (event.type === "pointerdown") {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({preventScroll: true});
    pointers.set(event.pointerId, {...now, begin: now});
  } else if (!before) {
    return;
  } else if (event.type === "pointermove") {
    const {width, height} = canvas.getBoundingClientRect();
    const [x, y] = [(now.x - before.x) / width, (now.y - before.y) / height];
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, {...now, begin: before.begin});
    viewer.take(() => {
      if (other) viewer.zoom(apart(before, other) / Math.max(apart(now, other), 1));
      if (other) viewer.pan(x, -y);                    // the middle moves half as far
      else if (event.shiftKey || event.buttons > 1) viewer.pan(2 * x, -2 * y);
      else viewer.orbit(-DRAG_TURN * x, DRAG_TURN * y);
    });
  } else {
    pointers.delete(event.pointerId);
    if (viewer.showsCameras && apart(now, before.begin) < CLICK) viewer.pick(now.x, now.y);
  }
}

start().catch(fail);
