// The call that the Try page just made, as text to paste into a shell or a program.

export const LANGUAGES = [
  ["curl", "curl"],
  ["python", "Python"],
  ["csharp", "C#"],
  ["javascript", "JavaScript"],
];

/**
 * call: {url, type, file, headers}; file is the name of the input on the reader's disk, headers a list of
 * [name, value]. Each text needs nothing but the language's own library.
 */
export function callText(language, call) {
  return { curl, python, csharp, javascript }[language](call);
}

function curl({ url, type, file, headers }) {
  const parts = [["Content-Type", type], ...headers].map(([name, value]) => `-H ${shell(`${name}: ${value}`)}`);
  return [`curl -X POST ${shell(url)}`, ...parts, `--data-binary ${shell(`@${file}`)}`].join(" \\\n  ");
}

/** Double quotes serve sh and cmd.exe alike while nothing inside is special; else sh's single quotes. */
function shell(text) {
  return /^[\w .,:;/@=+()-]*$/.test(text) ? `"${text}"` : `'${text.replace(/'/g, "'\\''")}'`;
}

function python({ url, type, file, headers }) {
  const lines = [["Content-Type", type], ...headers].map(([name, value]) => `    ${quote(name)}: ${quote(value)},`);
  return `import json
import urllib.request

with open(${quote(file)}, "rb") as file:
    body = file.read()
headers = {
${lines.join("\n")}
}
request = urllib.request.Request(${quote(url)}, body, headers)
with urllib.request.urlopen(request) as reply:
    result = json.load(reply)
print(result["verdict"], result["prediction"]["classes"][0])
`;
}

function csharp({ url, type, file, headers }) {
  const lines = headers.map(([name, value]) => `body.Headers.Add(${quote(name)}, ${quote(value)});\n`);
  return `using System.Net.Http.Headers;
using System.Text.Json;

using var client = new HttpClient();
using var body = new ByteArrayContent(await File.ReadAllBytesAsync(${quote(file)}));
body.Headers.ContentType = new MediaTypeHeaderValue(${quote(type)});
${lines.join("")}using var reply = await client.PostAsync(${quote(url)}, body);
reply.EnsureSuccessStatusCode();
using var result = JsonDocument.Parse(await reply.Content.ReadAsStringAsync());
Console.WriteLine(result.RootElement.GetProperty("verdict").GetString());
`;
}

function javascript({ url, type, file, headers }) {
  const lines = [["Content-Type", type], ...headers].map(([name, value]) => `    ${quote(name)}: ${quote(value)},`);
  return `// Node.js 18 or newer, saved as judge.mjs
import { readFile } from "node:fs/promises";

const reply = await fetch(${quote(url)}, {
  method: "POST",
  headers: {
${lines.join("\n")}
  },
  body: await readFile(${quote(file)}),
});
if (!reply.ok) throw new Error((await reply.json()).detail);
const result = await reply.json();
console.log(result.verdict, result.prediction.classes[0]);
`;
}

/** A string literal that all three languages read alike: JSON's, with everything beyond ASCII escaped. */
function quote(text) {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
