/** A name that nothing else has. */
export function newId(): string {
  // crypto.randomUUID needs TLS.
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
