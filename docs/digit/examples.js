// A digit of each kind, as strokes [[[x, y], ...], ...] in a drawing area from 0 to 1, y downwards.

export const EXAMPLES = [
  [arc(0.5, 0.5, 0.19, 0.28, -80, -440)],
  [[[0.46, 0.29], [0.54, 0.2], [0.5, 0.8]]],
  [[...arc(0.49, 0.36, 0.17, 0.16, -170, 35), [0.33, 0.78], [0.71, 0.75]]],
  [[...arc(0.47, 0.35, 0.15, 0.14, -150, 90), ...arc(0.47, 0.65, 0.19, 0.17, -90, 145)]],
  [[[0.39, 0.22], [0.32, 0.54], [0.7, 0.51]], [[0.62, 0.25], [0.57, 0.82]]],
  [[[0.68, 0.22], [0.42, 0.23], [0.39, 0.47], ...arc(0.47, 0.62, 0.19, 0.18, -110, 145)]],
  [[...arc(0.68, 0.56, 0.33, 0.37, -105, -180), ...arc(0.5, 0.65, 0.15, 0.15, -180, -540)]],
  [[[0.31, 0.25], [0.69, 0.23], [0.45, 0.81]]],
  [[...arc(0.51, 0.34, 0.14, 0.14, -50, -270), ...arc(0.5, 0.64, 0.17, 0.16, -90, 270), ...arc(0.51, 0.34, 0.14, 0.14, 90, -50)]],
  [[...arc(0.49, 0.37, 0.15, 0.16, -20, -380), [0.64, 0.4], [0.58, 0.82]]],
];

/** Points of an ellipse around (x, y), from one angle to another in degrees: 0 is right, 90 below. */
function arc(x, y, width, height, from, to) {
  const steps = Math.ceil(Math.abs(to - from) / 5);
  return Array.from({ length: steps + 1 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / steps) * Math.PI) / 180;
    return [x + width * Math.cos(angle), y + height * Math.sin(angle)];
  });
}
