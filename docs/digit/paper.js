// The square that one draws in. It keeps strokes [[[x, y], ...], ...] from 0 to 1, whatever its size on the screen.

import { PEN_ON_PAPER } from "./ink.js";

const STEP = 0.004; // a point that is nearer to the last one is left out

/** Draws what a mouse, a pen or a finger does on a canvas; `changed(when)` is called after each change. */
export function paper(canvas, changed) {
  let strokes = [];
  let pointer = null; // the one that draws; another finger draws nothing

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((x) => Math.min(Math.max(x, 0), 1));
  };
  const add = (event) => {
    const stroke = strokes.at(-1);
    const [to, from] = [place(event), stroke.at(-1)];
    if (Math.hypot(to[0] - from[0], to[1] - from[1]) > STEP) stroke.push(to);
  };
  const draw = () => drawStrokes(canvas, strokes);

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    strokes.push([place(event)]);
    draw();
    changed(event.timeStamp);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    (events.length ? events : [event]).forEach(add);
    draw();
    changed(event.timeStamp);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (event.pointerId === pointer) pointer = null;
    });
  }
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  return {
    strokes: () => strokes,
    set(others) {
      strokes = others;
      pointer = null;
      draw();
      changed(performance.now());
    },
  };
}

function drawStrokes(canvas, strokes) {
  const side = Math.round(canvas.clientWidth * devicePixelRatio);
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, side, side);
  context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = PEN_ON_PAPER * side;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y]) => context.lineTo(x * side, y * side));
    if (stroke.length === 1) context.lineTo(stroke[0][0] * side, stroke[0][1] * side);
    context.stroke();
  }
}
