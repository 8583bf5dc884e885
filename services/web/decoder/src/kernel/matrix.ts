/** Small matrices in fp32, row by row. */

export class Matrix {
  constructor(
    readonly rows: number,
    readonly columns: number,
    readonly data: Float32Array,
  ) {}

  static of(rows: number, columns: number, value: (row: number, column: number) => number): Matrix {
    const data = new Float32Array(rows * columns);
    for (let r = 0, i = 0; r < rows; r++) for (let c = 0; c < columns; c++) data[i++] = value(r, c);
    return new Matrix(rows, columns, data);
  }

  at(row: number, column: number): number {
    return this.data[row * this.columns + column]!;
  }

  get transposed(): Matrix {
    return Matrix.of(this.columns, this.rows, (r, c) => this.at(c, r));
  }

  /** Each column times a number. */
  scaled(by: Float32Array): Matrix {
    return Matrix.of(this.rows, this.columns, (r, c) => this.at(r, c) * by[c]!);
  }

  /** Each row less its mean. */
  get centred(): Matrix {
    const { rows, columns, data } = this;
    const out = new Float32Array(data.length);
    for (let r = 0; r < rows; r++) out.set(centred(data.subarray(r * columns, (r + 1) * columns)), r * columns);
    return new Matrix(rows, columns, out);
  }

  /** The product with a vector. */
  times(vector: Float32Array): Float32Array {
    return Float32Array.from({ length: this.rows }, (_, r) => {
      let sum = 0;
      for (let c = 0; c < this.columns; c++) sum += this.at(r, c) * vector[c]!;
      return sum;
    });
  }

  /** this x other' */
  timesTransposed(other: Matrix): Matrix {
    return Matrix.of(this.rows, other.rows, (r, c) => {
      let sum = 0;
      for (let k = 0; k < this.columns; k++) sum += this.at(r, k) * other.at(c, k);
      return sum;
    });
  }
}

/** A vector less its mean. */
export function centred(x: Float32Array): Float32Array {
  let sum = 0;
  for (const value of x) sum += value;
  const mean = sum / x.length;
  return x.map((value) => value - mean);
}

export const add = (a: Float32Array, b: Float32Array): Float32Array => a.map((x, i) => x + b[i]!);
export const multiply = (a: Float32Array, b: Float32Array): Float32Array => a.map((x, i) => x * b[i]!);
export const scale = (a: Float32Array, by: number): Float32Array => a.map((x) => x * by);
