// Calls a box through the client that was generated from its document. Arguments: its address, a JPEG.

import { Configuration, JudgeApi, OpenInferenceProtocolApi, ResultsApi } from "./client/index.js";

// Node's own types come in a package of their own; these three names are all that is needed of them.
declare const process: { argv: string[]; getBuiltinModule(name: "fs"): { readFileSync(path: string): Uint8Array<ArrayBuffer> } };
declare const Buffer: { from(bytes: Uint8Array): { toString(form: "base64"): string } };

const [address, path] = process.argv.slice(2);
const box = new Configuration({ basePath: address });
const bytes = process.getBuiltinModule("fs").readFileSync(path);
const picture = new Blob([bytes]);

const judge = new JudgeApi(box);
let result = await judge.predictPicture({
  model: "surface",
  body: picture,
  durable: true,
  xPart: "P-1",
  xSource: "generated",
});
console.log("picture", result.verdict, result.recorded);
result = await judge.predictForm({ model: "surface", file: picture, part: "P-2", source: "generated" });
console.log("form", result.verdict, result.part);
const text = Buffer.from(bytes).toString("base64");
result = await judge.predictBase64({ model: "surface", pictureInput: { image: text, part: "P-3" } });
console.log("base64", result.verdict, result.part);

const page = await new ResultsApi(box).listResults({ model: "surface", part: "P-1", limit: 1 });
console.log("results", page.results.length, page.results[0].source);

const tensor = { name: "image", datatype: "BYTES", shape: [1], data: [text] };
const answer = await new OpenInferenceProtocolApi(box).infer({ model: "surface", inferRequest: { inputs: [tensor] } });
console.log("tensors", answer.modelName, answer.outputs[0].name, answer.parameters?.["verdict"]);
