// Reads server-sent events from a response's body.

/** Yields {comment: text} and {id, data} as they arrive. */
export async function* readEvents(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  let event = { id: null, data: [] };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (event.data.length) yield { id: event.id, data: event.data.join("\n") };
          event = { id: null, data: [] };
        } else if (line.startsWith(":")) {
          yield { comment: line.slice(1).trim() };
        } else {
          const at = line.indexOf(":");
          const name = at < 0 ? line : line.slice(0, at);
          const text = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
          if (name === "data") event.data.push(text);
          else if (name === "id") event.id = text;
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Adds the deltas of a chat.completion.chunk to `answer`, which is {text, reasoning, tools, finish, usage, error}. */
export function addChunk(answer, chunk) {
  if (chunk.error) answer.error = chunk.error;
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.find((each) => each.index === 0);
  if (!choice) return answer;
  const delta = choice.delta ?? {};
  answer.text += delta.content ?? "";
  answer.reasoning += delta.reasoning_content ?? delta.reasoning ?? "";
  for (const call of delta.tool_calls ?? []) {
    const known = (answer.tools[call.index] ??= { id: call.id, name: "", arguments: "" });
    known.name += call.function?.name ?? "";
    known.arguments += call.function?.arguments ?? "";
  }
  answer.finish = choice.finish_reason ?? answer.finish;
  return answer;
}

export const emptyAnswer = () => ({ text: "", reasoning: "", tools: [], finish: null, usage: null, error: null });
