// Verify prf_v1.json in another language, from docs/prf.md alone. Needs Node and nothing else.
//
//     node tests/vectors/verify_prf.mjs [FILE]
//
// Exits 1 and names each value that does not match.

import { createCipheriv, createHash, hkdfSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { isDeepStrictEqual } from "node:util";

const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";

function canonical(...fields) {
  return Buffer.concat(
    fields.flatMap((field) => {
      const bytes = Buffer.from(field); // a string becomes UTF-8
      const length = Buffer.alloc(2);
      length.writeUInt16BE(bytes.length);
      return [length, bytes];
    }),
  );
}

const sha256 = (bytes) => createHash("sha256").update(bytes).digest();
const hkdf = (secret, info, length) => Buffer.from(hkdfSync("sha256", secret, Buffer.alloc(0), info, length));

function base32(bytes) {
  let bits = 0;
  let held = 0;
  let text = "";
  for (const byte of bytes) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += BASE32[(held >> bits) & 31];
    }
    held &= (1 << bits) - 1;
  }
  return bits ? text + BASE32[(held << (5 - bits)) & 31] : text;
}

function keyText(kind, secret, label) {
  const body = Buffer.concat([Buffer.from([kind]), secret, Buffer.from(label)]);
  const checksum = sha256(canonical("wmcheck/key/1", body)).subarray(0, 4);
  return "wmk1_" + base32(Buffer.concat([body, checksum]));
}

const commitment = (kind, secret, tenant, epoch) =>
  sha256(canonical("wmcheck/commitment/1", Buffer.from([kind]), secret, tenant, epoch)).toString("hex");
const tenantSecret = (root, tenant, epoch) => hkdf(root, canonical("wmcheck/tenant/1", tenant, epoch), 32);
const subkey = (secret, label, purpose) => hkdf(secret, canonical("wmcheck/prf/1", label, purpose), 16);

function aes(key, block) {
  const cipher = createCipheriv("aes-128-ecb", key, null).setAutoPadding(false);
  return Buffer.concat([cipher.update(block), cipher.final()]);
}

function digest(ctx, window) {
  const message = Buffer.alloc(16 * Math.max(1, Math.ceil(window.length / 4)));
  window.forEach((token, place) => message.writeUInt32LE(token, 4 * place));
  let state = Buffer.alloc(16);
  for (let start = 0; start < message.length; start += 16) {
    state = aes(ctx, state.map((byte, place) => byte ^ message[start + place]));
  }
  return state.subarray(0, 12);
}

function block(tok, context, index) {
  const counter = Buffer.alloc(4);
  counter.writeUInt32BE(index);
  return aes(tok, Buffer.concat([context, counter]));
}

const lane8 = (tok, context, token) => block(tok, context, Math.floor(token / 16))[token % 16];
const lane32 = (tok, context, token) => block(tok, context, Math.floor(token / 4)).readUInt32LE(4 * (token % 4));
const order = (context) => (BigInt(context.readUInt32LE(0)) << 31n) | (BigInt(context.readUInt32LE(4)) >> 1n);

function seed(ctx, rule, window, token) {
  if (rule === "left") return digest(ctx, window);
  const digests = (rule === "self" ? [...window, token] : window).map((id) => digest(ctx, [id]));
  return digests.reduce((best, other) => (order(other) < order(best) ? other : best));
}

function score(scheme, parameters, ctx, tok, window, token) {
  const context = seed(ctx, parameters.rule ?? "left", window, token);
  if (scheme === "redgreen") return lane8(tok, context, token) < parameters.green ? 1 : 0;
  const word = lane32(tok, context, token);
  if (scheme === "gumbel") return -Math.log1p(-word / 2 ** 32);
  if (scheme === "tournament") return Array.from({ length: parameters.layers }, (_, layer) => (word >>> layer) & 1);
  return word >= 2 ** 31 ? 1 : 0;
}

let values = 0;
let wrong = 0;

function same(where, found, expected) {
  values += 1;
  const close = typeof found === "number" && Math.abs(found - expected) <= 1e-12 * Math.abs(expected);
  if (close || isDeepStrictEqual(found, expected)) return;
  wrong += 1;
  console.log(`${where}: computed ${found}, the file has ${expected}`);
}

function verifyKey(where, kind, secret, item) {
  const { tenant = "", epoch = "" } = item;
  same(`${where} secret`, secret.toString("hex"), item.secret);
  same(`${where} text`, keyText(kind, secret, kind ? `${tenant}\0${epoch}` : ""), item.text);
  same(`${where} commitment`, commitment(kind, secret, tenant, epoch), item.commitment);
  same(`${where} id`, item.commitment.slice(0, 16), item.id);
}

function verifyContext(where, ctx, tok, item) {
  const context = digest(ctx, item.window);
  const lanes = (lane, tokens) => tokens.map((token) => lane(tok, context, token));
  same(`${where} digest`, context.toString("hex"), item.digest);
  same(`${where} order`, String(order(context)), item.order);
  same(`${where} lanes8`, lanes(lane8, item.tokens), item.lanes8);
  same(`${where} lanes32`, lanes(lane32, item.tokens), item.lanes32);
  same(`${where} stream8`, lanes(lane8, [...item.stream8.keys()]), item.stream8);
  same(`${where} stream32`, lanes(lane32, [...item.stream32.keys()]), item.stream32);
}

const path = process.argv[2] ?? new URL("prf_v1.json", import.meta.url);
const data = JSON.parse(readFileSync(path, "utf-8"));
same("schema", data.schema, "wmcheck.prf-vectors/1");
same("function", data.function, "aes128-hkdf-sha256/1");
for (const root of data.keys) {
  const secret = Buffer.from(root.secret, "hex");
  verifyKey(root.id, 0, secret, root);
  for (const item of root.tenants) {
    const where = `${root.id} '${item.tenant}' '${item.epoch}'`;
    const own = tenantSecret(secret, item.tenant, item.epoch);
    verifyKey(where, 1, own, item);
    for (const one of item.functions) {
      const [ctx, tok] = [subkey(own, one.label, "ctx"), subkey(own, one.label, "tok")];
      same(`${where} ${one.label} ctx`, ctx.toString("hex"), one.ctx);
      same(`${where} ${one.label} tok`, tok.toString("hex"), one.tok);
      for (const context of one.contexts) verifyContext(`${where} ${one.label} [${context.window}]`, ctx, tok, context);
    }
  }
}
for (const { scheme, parameters, label, key, tenant, cases } of data.scores) {
  same("label", `${scheme}/${parameters.rule ?? "left"}/${parameters.width}`, label);
  const own = Buffer.from(data.keys[key].tenants[tenant].secret, "hex");
  const [ctx, tok] = [subkey(own, label, "ctx"), subkey(own, label, "tok")];
  for (const { window, token, score: expected } of cases) {
    same(`${label} [${window}] ${token}`, score(scheme, parameters, ctx, tok, window, token), expected);
  }
}
console.log(`${basename(String(path))}: ${values - wrong} of ${values} values match`);
process.exitCode = wrong ? 1 : 0;
