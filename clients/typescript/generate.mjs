// Writes src/api.ts from docs/openapi.json. With --check it only compares, and fails if they differ.

import { readFileSync, writeFileSync } from "node:fs";

const METHODS = ["get", "post", "put", "patch", "delete"];
const document = JSON.parse(readFileSync(new URL("../../docs/openapi.json", import.meta.url)));
const target = new URL("src/api.ts", import.meta.url);

/** The TypeScript type of a schema. */
function type(schema, indent) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.oneOf) return schema.oneOf.map((one) => type(one, indent)).join(" | ");
  if (Array.isArray(schema.type)) {
    return schema.type.map((one) => type({ ...schema, type: one }, indent)).join(" | ");
  }
  switch (schema.type) {
    case "string":
    case "boolean":
    case "null":
      return schema.type;
    case "integer":
    case "number":
      return "number";
    case "array":
      return `Array<${type(schema.items, indent)}>`;
    case "object":
      return schema.properties ? object(schema, indent) : "Record<string, unknown>";
    default:
      throw new Error(`no type for ${JSON.stringify(schema)}`);
  }
}

function object(schema, indent) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties).map(([name, field]) => {
    const key = /^\w+$/.test(name) ? name : JSON.stringify(name);
    const mark = required.has(name) ? "" : "?";
    const inner = indent + "  ";
    return `${comment(field.description, inner)}${inner}${key}${mark}: ${type(field, inner)};\n`;
  });
  return `{\n${fields.join("")}${indent}}`;
}

function comment(text, indent) {
  return text ? `${indent}/** ${text.replace(/\s+/g, " ")} */\n` : "";
}

/** The parameters of one place as the type of an object. */
function parameters(operation, place, indent) {
  const found = (operation.parameters ?? []).filter((one) => one.in === place);
  const properties = found.map((one) => [
    one.name,
    { description: one.description, ...one.schema },
  ]);
  const required = found.filter((one) => one.required).map((one) => one.name);
  if (found.length === 0) return "Record<never, never>";
  return object({ properties: Object.fromEntries(properties), required }, indent);
}

/** The type of the body of a successful answer. */
function answer(operation, indent) {
  const [, success] = Object.entries(operation.responses).find(([status]) => /^2/.test(status));
  const content = Object.entries(success.content ?? {})[0];
  if (!content) return "undefined";
  const [kind, { schema }] = content;
  return kind === "application/json" ? type(schema, indent) : "string";
}

const operations = Object.entries(document.paths).flatMap(([path, item]) =>
  METHODS.filter((method) => item[method]).map((method) => [path, method, item[method]]),
);

let text = "// Generated from docs/openapi.json by generate.mjs. Do not edit.\n";
for (const [name, schema] of Object.entries(document.components.schemas)) {
  text += `\n${comment(schema.description, "")}export type ${name} = ${type(schema, "")};\n`;
}
text += "\n/** The parameters, the body and the answer of each operation. */\nexport interface Operations {\n";
for (const [, , operation] of operations) {
  const body = operation.requestBody?.content["application/json"].schema;
  text += `${comment(operation.summary, "  ")}  ${operation.operationId}: {
    path: ${parameters(operation, "path", "    ")};
    query: ${parameters(operation, "query", "    ")};
    body: ${body ? type(body, "    ") : "undefined"};
    answer: ${answer(operation, "    ")};
  };\n`;
}
text += "}\n\n/** The method and the path of each operation. */\n";
text += "export const routes: Readonly<Record<keyof Operations, readonly [string, string]>> = {\n";
for (const [path, method, operation] of operations) {
  text += `  ${operation.operationId}: ["${method.toUpperCase()}", "${path}"],\n`;
}
text += "};\n";

if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== text) {
    console.error("src/api.ts is not that of docs/openapi.json; run `npm run generate`");
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}
