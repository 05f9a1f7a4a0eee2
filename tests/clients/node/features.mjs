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
};

const seen = {};
for (const [name, feature] of Object.entries(features)) {
  seen[name] = await feature().catch((error) => ({ failed: String(error) }));
}
console.log(JSON.stringify(seen));
