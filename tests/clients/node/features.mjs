// Calls as users of openai-node write them. What they saw goes to stdout as one line of JSON; the test judges it.
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });
const { completions } = client.chat;
const says = (content) => [{ role: "user", content }];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const person = {
  type: "json_schema",
  json_schema: {
    name: "person",
    schema: {
      type: "object",
      properties: { name: { type: "string" }, age: { type: "integer" } },
      required: ["name", "age"],
      additionalProperties: false,
    },
  },
};

async function failure(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const features = {
  create: () => completions.create({ model, messages: says("Hello!"), temperature: 0 }),
  stream: async () =>
    collected(
      await completions.create({
        model,
        messages: says("Hello!"),
        temperature: 0,
        stream: true,
        stream_options: { include_usage: true },
      }),
    ),
  streamHelper: () => completions.stream({ model, messages: says("Hello!"), temperature: 0 }).finalChatCompletion(),
  tools: async () => {
    const asked = [];
    const answer = (city) => {
      asked.push(city);
      return "18C, sunny";
    };
    const tool = { ...weather, function: { ...weather.function, parse: JSON.parse, function: ({ city }) => answer(city) } };
    const options = { model, messages: says("What is the weather in Paris?"), tools: [tool], temperature: 0 };
    const whole = await completions.runTools(options).finalContent();
    const streamed = await completions.runTools({ ...options, stream: true }).finalContent();
    return { asked, whole, streamed };
  },
  schema: async () => {
    const options = { model, messages: says("Give me JSON with name and age"), response_format: person };
    return (await completions.parse({ ...options, temperature: 0, max_tokens: 200 })).choices[0].message.parsed;
  },
  choices: () => completions.create({ model, messages: says("Hello!"), n: 3, logprobs: true, top_logprobs: 2 }),
  models: async () => (await collected(await client.models.list())).map(({ id }) => id),
  retrieve: () => client.models.retrieve(model),
  badRequest: () => failure(() => completions.create({ model, messages: [] })),
  unknownModel: () => failure(() => completions.create({ model: "nowhere", messages: says("Hi") })),
  badStream: () => failure(() => completions.create({ model, messages: says("word ".repeat(5000)), stream: true })),
  breakOff: async () => {
    const stream = await completions.create({ model, messages: says("Tell me a story"), stream: true });
    for await (const chunk of stream) {
      stream.controller.abort();
      return chunk.object;
    }
  },
  stored: async () => {
    const { id } = await completions.create({ model, messages: says("Hello!"), store: true, metadata: { by: "node" } });
    const kept = await completions.retrieve(id);
    await completions.delete(id);
    return { kept: kept.id === id, metadata: kept.metadata, gone: (await failure(() => completions.retrieve(id))).status };
  },
  rawResponse: async () => {
    const { data, response } = await completions.create({ model, messages: says("Hello!") }).withResponse();
    return { job: response.headers.get("x-job-id") === data.id, request: Boolean(data._request_id) };
  },
  response: () => client.responses.create({ model, input: "Hello!", temperature: 0 }),
  responseHelper: () => client.responses.stream({ model, input: "Hello!", temperature: 0 }).finalResponse(),
  responseInBackground: async () => {
    const stream = await client.responses.create({ model, input: "Hello!", temperature: 0, background: true, stream: true });
    const seen = [];
    for await (const event of stream) {
      seen.push(event);
      if (event.type === "response.output_text.delta") break;
    }
    const { id } = seen[0].response;
    const starting_after = seen.at(-1).sequence_number;
    const events = [...seen, ...(await collected(await client.responses.retrieve(id, { stream: true, starting_after })))];
    const response = await client.responses.retrieve(id);
    await client.responses.delete(id);
    return { events, response, gone: (await failure(() => client.responses.retrieve(id))).status };
  },
  responseCancelled: async () => {
    const { id } = await client.responses.create({ model, input: "Tell me a story", background: true });
    return (await client.responses.cancel(id)).status;
  },
  responseTools: async () => {
    const { function: about, type } = weather;
    const options = { model, tools: [{ type, ...about, strict: false }], temperature: 0 };
    const first = await client.responses.create({ ...options, input: "What is the weather in Paris?" });
    const { call_id } = first.output[0];
    const input = [{ type: "function_call_output", call_id, output: "18C, sunny" }];
    const second = await client.responses.create({ ...options, input, previous_response_id: first.id });
    const items = await collected(client.responses.inputItems.list(first.id));
    return { called: first.output[0].name, said: second.output_text, items: items.map(({ type }) => type) };
  },
  responseSchema: async () => {
    const { json_schema } = person;
    const text = { format: { type: "json_schema", ...json_schema } };
    return (await client.responses.parse({ model, input: "Give me JSON with name and age", text, temperature: 0 })).output_parsed;
  },
  badResponse: () => failure(() => client.responses.create({ model, input: "Hi", tools: [{ type: "web_search" }] })),
};

const seen = {};
for (const [name, feature] of Object.entries(features)) {
  seen[name] = await feature().catch((error) => ({ failed: String(error) }));
}
console.log(JSON.stringify(seen));
