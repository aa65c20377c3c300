// What is said of an answer. An entropy is told as a share of ln 10, that of ten digits that are equally likely.

const SURE = 0.05; // below this share of unsureness the networks name one digit
const UNKNOWN = 0.2; // above it they name none: so it is with 4 % of the test images of MNIST, and 98 % of the same images shuffled
const OF_WEIGHTS = 0.2; // the networks' contradictions are at least this part of it: then they are named as the cause

/** Unsureness in [0, 1], and its two parts. */
export function unsureness({ entropy, mutualInformation }) {
  const [all, ofWeights] = [entropy, mutualInformation].map((nats) => Math.max(nats, 0) / Math.log(10));
  return { all, ofImage: Math.max(all - ofWeights, 0), ofWeights };
}

/** The answer in two sentences, and its kind: "sure", "perhaps" or "unknown". */
export function verdict(answer) {
  const { all, ofWeights } = unsureness(answer);
  const [first, second] = ranked(answer.probabilities);
  const voters = answer.networks.filter((one) => ranked(one)[0] === first).length;
  const votes = voters === answer.networks.length ? `All ${voters} networks vote` : `${voters} of ${answer.networks.length} networks vote`;
  if (all < SURE) return { kind: "sure", says: `It is ${article(first)} ${first}.`, because: `${votes} for it.` };
  if (all < UNKNOWN) {
    const says = `Probably ${article(first)} ${first}, perhaps ${article(second)} ${second}.`;
    return { kind: "perhaps", says, because: `${votes} for ${first}.` };
  }
  let because = "Each network hesitates by itself: several digits are possible.";
  if (voters === answer.networks.length) because = `All ${voters} networks would say ${first}, but they are not sure enough of it.`;
  else if (ofWeights > OF_WEIGHTS * all) because = "They contradict each other: they have never learned about such an image.";
  return { kind: "unknown", says: "We do not know.", because };
}

/** The digits, the most likely first. */
export function ranked(probabilities) {
  return probabilities.map((_, digit) => digit).sort((a, b) => probabilities[b] - probabilities[a]);
}

/** Votes as a sentence: "3: 14 votes, 8: 2 votes". */
export function counted(networks) {
  const votes = networks.map((one) => ranked(one)[0]);
  const counts = ranked(networks[0].map((_, digit) => votes.filter((vote) => vote === digit).length));
  return counts
    .map((digit) => [digit, votes.filter((vote) => vote === digit).length])
    .filter(([, count]) => count)
    .map(([digit, count]) => `${digit}: ${count} ${count === 1 ? "vote" : "votes"}`)
    .join(", ");
}

/** 0.987 as "99\u00a0%"; never 100 % or 0 % of what is not. */
export function percent(share) {
  if (share > 0 && share < 0.005) return "<\u00a01\u00a0%";
  if (share < 1 && share >= 0.995) return ">\u00a099\u00a0%";
  return `${Math.round(100 * share)}\u00a0%`;
}

/** 1476812 as "1.48 MB". */
export function size(bytes) {
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toPrecision(3)} MB`;
}

function article(digit) {
  return digit === 8 ? "an" : "a";
}
