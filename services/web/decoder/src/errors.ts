/** What can fail. Each message is a sentence to show: what is wrong, and what to do. */

/** The root of the tree. */
export class SamserveError extends Error {
  /** The server's `code`, or a name of this package. */
  readonly code: string;

  constructor(message: string, code: string) {
    super(message);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The server answered with a failure. */
export class ServerError extends SamserveError {
  /** Of HTTP. */
  readonly status: number;
  /** The part of the request to correct; empty if there is none. */
  readonly field: string;
  /** Seconds until another attempt is worth it; null if none is. */
  readonly retryAfter: number | null;

  constructor(message: string, code: string, status: number, field = "", retryAfter: number | null = null) {
    super(message, code);
    this.status = status;
    this.field = field;
    this.retryAfter = retryAfter;
  }
}

/** The server does not know the image, or has forgotten it: send it again. */
export class ImageNotEmbedded extends ServerError {}

/** The image was embedded by another version of the model: load the decoder again and send the image again. */
export class ModelChanged extends ServerError {}

/** The server did not answer at all. */
export class Unreachable extends SamserveError {
  constructor(message: string) {
    super(message, "UNREACHABLE");
  }
}

/** The model cannot be decoded in this browser: use `RemoteDecoder`. */
export class NotDecodable extends SamserveError {
  constructor(message: string) {
    super(message, "NOT_DECODABLE");
  }
}

/** A prompt is invalid. */
export class InvalidPrompt extends SamserveError {
  constructor(message: string) {
    super(message, "INVALID_INPUT");
  }
}

/** A later prompt on the same image took this one's place. */
export class Superseded extends SamserveError {
  constructor() {
    super("a later prompt on the same image was asked", "SUPERSEDED");
  }
}

/** The decoder or the image was closed, or the worker has died. */
export class Closed extends SamserveError {
  constructor(message: string) {
    super(message, "CLOSED");
  }
}
