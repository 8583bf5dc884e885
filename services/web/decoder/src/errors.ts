/** What can fail. Each message is a sentence to show: what is wrong, and what to do. */

/** The root of the tree. */
export class SamserveError extends Error {
  /** The server's `code`, or a name of this package. */
  readonly code: string;

  constructor(message: string, code: string) {
    super(message);
    this.code = code;
  }

  /** Written out, because a bundler may shorten the names of classes. */
  override get name(): string {
    return "SamserveError";
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

  override get name(): string {
    return "ServerError";
  }
}

/** The server does not know the image, or has forgotten it: send it again. */
export class ImageNotEmbedded extends ServerError {
  override get name(): string {
    return "ImageNotEmbedded";
  }
}

/** The image was embedded by another version of the model: load the decoder again and send the image again. */
export class ModelChanged extends ServerError {
  override get name(): string {
    return "ModelChanged";
  }
}

/** The server did not answer at all. */
export class Unreachable extends SamserveError {
  constructor(message: string) {
    super(message, "UNREACHABLE");
  }

  override get name(): string {
    return "Unreachable";
  }
}

/** The model cannot be decoded in this browser: use `RemoteDecoder`. */
export class NotDecodable extends SamserveError {
  constructor(message: string) {
    super(message, "NOT_DECODABLE");
  }

  override get name(): string {
    return "NotDecodable";
  }
}

/** A prompt is invalid. */
export class InvalidPrompt extends SamserveError {
  constructor(message: string) {
    super(message, "INVALID_INPUT");
  }

  override get name(): string {
    return "InvalidPrompt";
  }
}

/** A later prompt on the same image took this one's place. */
export class Superseded extends SamserveError {
  constructor() {
    super("a later prompt on the same image was asked", "SUPERSEDED");
  }

  override get name(): string {
    return "Superseded";
  }
}

/** The decoder or the image was closed, or the worker has died. */
export class Closed extends SamserveError {
  constructor(message: string) {
    super(message, "CLOSED");
  }

  override get name(): string {
    return "Closed";
  }
}
