/** fp16 to fp32 and back. */

let table: Float32Array | undefined;

function build(): Float32Array {
  const floats = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 31
          ? fraction
            ? NaN
            : Infinity
          : (1 + fraction / 1024) * 2 ** (exponent - 15);
    floats[bits] = bits & 0x8000 ? -size : size;
  }
  return floats;
}

/** Convert fp16 numbers, given as their bits. */
export function fromHalf(bits: Uint16Array): Float32Array {
  const floats = (table ??= build());
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = floats[bits[i]!]!;
  return out;
}

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** Convert a number to fp16's bits; to nearest, ties to even. */
export function toHalf(value: number): number {
  float[0] = value;
  const bits = word[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const exponent = (bits >>> 23) & 255;
  let fraction = bits & 0x7fffff;

  if (exponent === 255) return sign | 0x7c00 | (fraction ? 0x200 : 0);
  const scaled = exponent - 112;
  if (scaled >= 31) return sign | 0x7c00;
  if (scaled <= 0) {
    if (scaled < -10) return sign;
    fraction |= 0x800000;
    return sign | rounded(fraction, 14 - scaled);
  }
  return sign | rounded((scaled << 23) | fraction, 13);
}

function rounded(value: number, shift: number): number {
  const kept = value >>> shift;
  const rest = value & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return rest > half || (rest === half && kept & 1) ? kept + 1 : kept;
}

/** Convert fp32 numbers to fp16's bits. */
export function toHalves(values: Float32Array): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = toHalf(values[i]!);
  return out;
}
