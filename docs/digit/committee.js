// The networks: two ONNX files, which onnxruntime-web computes on this device, in one thread.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const RUNTIME = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"];

/** Loads runtime and networks; `loaded(share)` hears how much has come. */
export async function load(loaded) {
  const files = ["committee.onnx", "network.onnx", `onnxruntime/${RUNTIME[1]}`];
  const parts = await fetchAll(files, loaded);
  ort.env.wasm.wasmBinary = parts[2];
  const committee = await ort.InferenceSession.create(parts[0]);
  const alone = await ort.InferenceSession.create(parts[1]);
  const [ofBundle] = performance.getEntriesByName(new URL(`onnxruntime/${RUNTIME[0]}`, import.meta.url).href);
  return {
    answer: (pixels) => answer(committee, alone, pixels),
    bytes: {
      networks: parts[0].byteLength,
      alone: parts[1].byteLength,
      runtime: parts[2].byteLength + (ofBundle?.decodedBodySize ?? 0),
    },
  };
}

/** What the networks say to 784 grey values in [0, 1]: numbers by the names that the files give their outputs. */
async function answer(committee, alone, pixels) {
  const inputs = new ort.Tensor("float32", pixels, [1, 28, 28, 1]);
  const said = await committee.run({ inputs });
  const { probabilities } = await alone.run({ inputs });
  const networks = [...said.networks.data];
  return {
    probabilities: [...said.probabilities.data],
    entropy: said.entropy.data[0],
    mutualInformation: said.mutual_information.data[0],
    networks: Array.from({ length: networks.length / 10 }, (_, i) => networks.slice(10 * i, 10 * i + 10)),
    alone: [...probabilities.data],
  };
}

/** Several files at once as arrays of bytes. */
async function fetchAll(names, loaded) {
  const responses = await Promise.all(
    names.map(async (name) => {
      const response = await fetch(new URL(name, import.meta.url));
      if (!response.ok) throw new Error(`${name} is not there (${response.status})`);
      return response;
    }),
  );
  const total = responses.reduce((sum, { headers }) => sum + Number(headers.get("Content-Length") ?? NaN), 0);
  let come = 0;
  return Promise.all(
    responses.map(async ({ body }) => {
      const counted = new TransformStream({
        transform(chunk, controller) {
          come += chunk.byteLength;
          if (total > 0) loaded(Math.min(come / total, 1)); // a compressed file is longer than its header says
          controller.enqueue(chunk);
        },
      });
      return new Uint8Array(await new Response(body.pipeThrough(counted)).arrayBuffer());
    }),
  );
}
