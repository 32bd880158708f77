// A call as a line for a shell.

const INLINE_CHARS_MAX = 300;

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replace(/'/g, `'\\''`)}'`;
}

/** asked: {method, path, headers: [[name, value]], body: null or as the form gives it}. */
export function curlText(origin, { method, path, headers, body }) {
  const parts = ["curl"];
  if (method !== "GET" && !(body && method === "POST")) parts.push("-X", method);
  for (const [name, value] of headers) parts.push("-H", quoted(`${name}: ${value}`));
  if (body) parts.push(...bodyParts(body));
  parts.push(quoted(`${origin}${path}`));
  return parts.join(" ");
}

function bodyParts(body) {
  if (body.kind === "form") {
    const given = body.fields.map(({ name, file, text }) => quoted(file ? `${name}=@${file.name}` : `${name}=${text}`));
    const missing = body.files
      .filter((name) => !body.fields.some((field) => field.name === name))
      .map((name) => `${name}=@part.jpg`);
    return [...missing, ...given].flatMap((part) => ["-F", part]);
  }
  const type = ["-H", quoted(`Content-Type: ${body.mediaType}`)];
  if (body.kind === "file") {
    const name = body.file ? body.file.name : (body.exampleUrl || "body.bin").split("/").pop();
    return [...type, "--data-binary", quoted(`@${name}`)];
  }
  // A long body would bury the line: it is sent from a file.
  const short = body.text.replace(/\n\s*/g, " ");
  return [...type, "-d", short.length > INLINE_CHARS_MAX ? "@body.json" : quoted(short)];
}
