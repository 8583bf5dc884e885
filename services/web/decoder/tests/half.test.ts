import { expect, it } from "vitest";
import { fromHalf, toHalf, toHalves } from "../src/sam/half.js";

it("every fp16 number comes back as itself", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, bits) => bits).filter((bits) => (bits & 0x7c00) !== 0x7c00 || !(bits & 1023));
  expect(toHalves(fromHalf(all))).toEqual(all);
});

it.each([[65504, 0x7bff], [65520, 0x7c00], [2 ** -24, 1], [2 ** -26, 0], [1 + 2 ** -11, 0x3c00], [1 + 3 * 2 ** -11, 0x3c02], [-0.5, 0xb800]])(
  "%f rounds to the nearest fp16",
  (value, bits) => {
    expect(toHalf(value)).toBe(bits);
  },
);
