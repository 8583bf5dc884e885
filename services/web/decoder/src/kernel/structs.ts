/** The structures of decode_job.h, as they lie in WebAssembly's memory. */

export class Scalar {
  constructor(
    readonly size: 4 | 8,
    private readonly kind: "pointer" | "float" | "integer",
    private readonly value: number,
  ) {}

  get align(): number {
    return this.size;
  }

  write(view: DataView, at: number): void {
    if (this.kind === "pointer") view.setUint32(at, this.value, true);
    else if (this.kind === "float") view.setFloat32(at, this.value, true);
    else view.setBigInt64(at, BigInt(this.value), true);
  }
}

export class Struct {
  readonly align: number;
  readonly size: number;
  private readonly places: number[] = [];

  constructor(private readonly members: readonly (Scalar | Struct)[]) {
    let at = 0;
    for (const member of members) {
      at = aligned(at, member.align);
      this.places.push(at);
      at += member.size;
    }
    this.align = Math.max(...members.map((member) => member.align));
    this.size = aligned(at, this.align);
  }

  write(view: DataView, at: number): void {
    this.members.forEach((member, index) => member.write(view, at + this.places[index]!));
  }
}

function aligned(at: number, to: number): number {
  return Math.ceil(at / to) * to;
}

export const pointer = (at: number): Scalar => new Scalar(4, "pointer", at);
export const float = (value: number): Scalar => new Scalar(4, "float", value);
export const integer = (value: number): Scalar => new Scalar(8, "integer", value);
export const struct = (...members: (Scalar | Struct)[]): Struct => new Struct(members);
