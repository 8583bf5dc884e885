/** Shares out WebAssembly's memory. The kernel itself allocates nothing. */

const ALIGNMENT = 16;
const PAGE = 65536;

interface Gap {
  at: number;
  size: number;
}

export class Heap {
  private readonly gaps: Gap[] = []; // in the order of their addresses, none beside another
  private readonly sizes = new Map<number, number>();
  private end: number;

  /** @param base - the first free address */
  constructor(
    private readonly memory: WebAssembly.Memory,
    base: number,
  ) {
    this.end = aligned(base);
    this.release(this.end, memory.buffer.byteLength - this.end);
    this.end = memory.buffer.byteLength;
  }

  /** Reserve bytes in the smallest gap that has them. Throws RangeError if there is no more memory. */
  reserve(bytes: number): number {
    const size = aligned(Math.max(bytes, 1));
    let best = this.gaps.findIndex((gap) => gap.size >= size);
    this.gaps.forEach((gap, i) => {
      if (gap.size >= size && gap.size < this.gaps[best]!.size) best = i;
    });
    if (best < 0) {
      this.grow(size);
      best = this.gaps.length - 1;
    }

    const gap = this.gaps[best]!;
    const { at } = gap;
    gap.at += size;
    gap.size -= size;
    if (!gap.size) this.gaps.splice(best, 1);
    this.sizes.set(at, size);
    return at;
  }

  free(at: number): void {
    const size = this.sizes.get(at);
    if (size === undefined) return;
    this.sizes.delete(at);
    this.release(at, size);
  }

  /** Make the last gap at least so large. */
  private grow(size: number): void {
    const last = this.gaps.at(-1);
    const beside = last && last.at + last.size === this.end ? last.size : 0;
    const pages = Math.ceil((size - beside) / PAGE);
    try {
      this.memory.grow(pages);
    } catch {
      throw new RangeError(`no memory for ${size} bytes`);
    }
    this.release(this.end, pages * PAGE);
    this.end += pages * PAGE;
  }

  private release(at: number, size: number): void {
    if (!size) return;
    let next = this.gaps.findIndex((gap) => gap.at > at);
    if (next < 0) next = this.gaps.length;
    const [before, after] = [this.gaps[next - 1], this.gaps[next]];
    const joinsBefore = before && before.at + before.size === at;
    const joinsAfter = after && at + size === after.at;
    if (joinsBefore) {
      before.size += size + (joinsAfter ? after.size : 0);
      if (joinsAfter) this.gaps.splice(next, 1);
    } else if (joinsAfter) {
      after.at = at;
      after.size += size;
    } else this.gaps.splice(next, 0, { at, size });
  }
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
