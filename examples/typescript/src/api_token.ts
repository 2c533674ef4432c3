/** Says where the server of an API token is: `grpc_url` is grpcs://host:port, or grpc:// for plaintext. */
export interface ApiToken {
  api_url: string;
  grpc_url?: string;
}

/** Reads an API token, which is a JSON object in base64; no error shows it. */
export function parseApiToken(text: string): ApiToken {
  try {
    return JSON.parse(Buffer.from(text, "base64").toString()) as ApiToken;
  } catch {
    throw new Error("NEPTUNE_API_TOKEN is not an API token: it is no JSON object in base64");
  }
}

/** Runs a program that takes a project, with the API token of the environment; prints what went wrong. */
export async function runWithProject(
  main: (apiToken: string, project: string) => Promise<void>,
  describe: (error: unknown) => string,
): Promise<void> {
  const [project, ...more] = process.argv.slice(2);
  const apiToken = process.env.NEPTUNE_API_TOKEN;
  if (!project || more.length > 0 || !apiToken) {
    console.error(`usage: NEPTUNE_API_TOKEN=... node ${process.argv[1]} workspace/project`);
    process.exitCode = 2;
    return;
  }
  try {
    await main(apiToken, project);
  } catch (error) {
    console.error(describe(error));
    process.exitCode = 1;
  }
}
