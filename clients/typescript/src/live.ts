// Server-sent events: blocks of lines that an empty line ends.

/** A stream that is silent for longer is dead: the server sends something every 20 seconds. */
const SILENCE_MAX_MS = 30_000;
/** Longest block in characters. The server sends posts, of at most a few kilobytes. */
const BLOCK_MAX = 1 << 22;

/** A block of a stream. */
export interface Block {
  id?: string;
  data?: string;
  /** The pause before the next connection, in milliseconds. */
  retry?: number;
}

/** The blocks of an answer, until it ends. A block that ends early is dropped. */
export async function* blocks(response: Response): AsyncGenerator<Block, void, undefined> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await inTime(reader.read());
      if (done) return;
      text += decoder.decode(value, { stream: true });
      if (text.length > BLOCK_MAX) throw new Error("an event is too long");
      const whole = text.split("\n\n");
      text = whole.pop() ?? "";
      for (const block of whole) yield parsed(block);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

async function inTime<T>(reading: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("the stream is silent")), SILENCE_MAX_MS);
  });
  try {
    return await Promise.race([reading, silence]);
  } finally {
    clearTimeout(timer);
  }
}

function parsed(text: string): Block {
  const block: Block = {};
  for (const line of text.split("\n")) {
    const [name, value] = line.split(/: ?(.*)/s, 2);
    if (name === "id" || name === "data") block[name] = value ?? "";
    if (name === "retry") block.retry = Number(value);
  }
  return block;
}
