// Logs a point to a run and reads it back over HTTP, in JSON: what fetch can do, anything can.
//
//     NEPTUNE_API_TOKEN=... node dist/src/log_point_http.js workspace/project

import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";

import createClient from "openapi-fetch";
import type { Client } from "openapi-fetch";

import type { components, paths } from "../gen/openapi.js";
import { parseApiToken, runWithProject } from "./api_token.js";

type Failure = components["schemas"]["Error"];
type Point = components["schemas"]["FloatPoint"];
type Api = Client<paths, "application/json">;

/** What google.rpc's ErrorInfo, BadRequest and RetryInfo look like in JSON. */
interface Detail {
  reason?: string;
  fieldViolations?: { field: string; description: string }[];
  retryDelay?: string;
}

const ATTRIBUTE = "train/loss";
const PATIENCE_MS = 30_000; // for everything together

/** A call that failed, with what the server says of it. */
class CallError extends Error {
  constructor(readonly failure: Failure) {
    super(failure.message);
  }
}

async function main(apiToken: string, project: string): Promise<void> {
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const api: Api = createClient({
    baseUrl: parseApiToken(apiToken).api_url,
    // The signal ends waiting here, the second header at the server.
    headers: { accept: "application/json", "grpc-timeout": `${PATIENCE_MS}m` },
    fetch: (request) => fetch(request, { signal }),
  });

  // The API token is for this exchange; all other calls carry the access token.
  const exchange = { params: { header: { "X-Neptune-Api-Token": apiToken } } };
  const { accessToken } = valueOf(await api.GET("/api/backend/v1/authorization/oauth-token", exchange));
  api.use({
    onRequest({ request }) {
      request.headers.set("authorization", `Bearer ${accessToken}`);
    },
  });

  const runId = randomUUID();
  const run = valueOf(await api.POST("/api/client/v1/runs", { body: { projectIdentifier: project, runId } }));
  console.log(`run    ${run.organizationName}/${run.projectName}/${run.shortId}`);

  await logPoint(api, project, runId);
  for (const point of await readPoints(api, run.id!)) {
    console.log(`point  ${ATTRIBUTE}: step ${point.step}, value ${point.value}`);
  }
}

/** Submits a point and waits until it is applied. */
async function logPoint(api: Api, project: string, runId: string): Promise<void> {
  const { requestId } = valueOf(
    await api.POST("/api/client/v1/ingest", {
      headers: { "x-idempotency-key": randomUUID() }, // However often a call with this key arrives, it is one.
      body: { project, runId, update: { step: { whole: 1 }, append: { [ATTRIBUTE]: { float64: 0.25 } } } },
    }),
  );
  for (;;) {
    const query = { projectIdentifier: project, requestId: requestId! };
    const { codeByCount } = valueOf(await api.GET("/api/client/v1/ingest/check", { params: { query } }));
    const { code, detail } = codeByCount![0]!;
    if (code === "OK") {
      return;
    }
    if (code !== "UNAVAILABLE") {
      throw new Error(`the point was refused: ${detail}`);
    }
    await setTimeout(20); // accepted, not yet applied
  }
}

async function readPoints(api: Api, run: string): Promise<Point[]> {
  const holder = { identifier: run, type: "experiment" };
  const requests = [{ requestId: "points", series: { attribute: ATTRIBUTE, holder } }];
  const body = { perSeriesPointsLimit: 1000, requests };
  const answer = valueOf(await api.POST("/api/leaderboard/v1/proto/attributes/series/float", { body }));
  return answer.series?.[0]?.series?.values ?? [];
}

/** Returns the answer of a call. Throws CallError when it failed. */
function valueOf<Answer>(result: { data?: Answer; error?: Failure }): Answer {
  if (result.error) {
    throw new CallError(result.error);
  }
  return result.data!;
}

/** Tells what a failed call says: its code, its message, and the details that programs go by. */
function describe(error: unknown): string {
  if (!(error instanceof CallError)) {
    const cause = error instanceof Error && error.cause ? `: ${error.cause}` : ""; // fetch hides the cause in there
    return error instanceof Error ? error.message + cause : String(error);
  }
  const { status, message, details } = error.failure;
  const lines = [`${status}: ${message}`];
  for (const detail of (details ?? []) as Detail[]) {
    if (detail.reason) {
      lines.push(`  reason ${detail.reason}`);
    }
    for (const violation of detail.fieldViolations ?? []) {
      lines.push(`  field ${violation.field}: ${violation.description}`);
    }
    if (detail.retryDelay) {
      lines.push(`  try again in ${detail.retryDelay}`);
    }
  }
  return lines.join("\n");
}

await runWithProject(main, describe);
