// Logs a point to a run and reads it back over gRPC.
//
//     NEPTUNE_API_TOKEN=... node dist/src/log_point.js workspace/project

import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";

import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Metadata, status } from "@grpc/grpc-js";
import type { ServiceError } from "@grpc/grpc-js";

import { Code } from "../gen/google/rpc/code_pb.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../gen/google/rpc/status_pb.js";
import { AuthService } from "../gen/neptune_api/v1/auth_service_pb.js";
import { IngestCode } from "../gen/neptune_api/v1/ingest_pb.js";
import { IngestService } from "../gen/neptune_api/v1/ingest_service_pb.js";
import { RunsService } from "../gen/neptune_api/v1/runs_service_pb.js";
import type { FloatPoint } from "../gen/neptune_api/v1/series_pb.js";
import { SeriesService } from "../gen/neptune_api/v1/series_service_pb.js";
import { parseApiToken, runWithProject } from "./api_token.js";
import { bearer, clientOf, connect } from "./client.js";
import type { UnaryClient } from "./client.js";

const ATTRIBUTE = "train/loss";
const PATIENCE_MS = 30_000; // for everything together

async function main(apiToken: string, project: string): Promise<void> {
  const { grpc_url } = parseApiToken(apiToken);
  if (!grpc_url) {
    throw new Error("the API token has no grpc_url: its server speaks HTTP only");
  }
  const connection = connect(new URL(grpc_url));
  try {
    const deadline = Date.now() + PATIENCE_MS;

    // The API token is for this exchange; all other calls carry the access token.
    const { accessToken } = await clientOf(AuthService, connection, { deadline }).exchangeApiToken({ apiToken });
    const options = { deadline, credentials: bearer(accessToken) };

    const runId = randomUUID();
    const run = await clientOf(RunsService, connection, options).createRun({ projectIdentifier: project, runId });
    console.log(`run    ${run.organizationName}/${run.projectName}/${run.shortId}`);

    await logPoint(clientOf(IngestService, connection, options), project, runId);
    for (const point of await readPoints(clientOf(SeriesService, connection, options), run.id)) {
      console.log(`point  ${ATTRIBUTE}: step ${point.step}, value ${point.value}`);
    }
  } finally {
    connection.close();
  }
}

/** Submits a point and waits until it is applied. */
async function logPoint(ingest: UnaryClient<typeof IngestService>, project: string, runId: string): Promise<void> {
  const once = new Metadata(); // However often a call with this key arrives, it is one submission.
  once.set("x-idempotency-key", randomUUID());
  const update = { step: { whole: 1n }, append: { [ATTRIBUTE]: { value: { case: "float64", value: 0.25 } } } } as const;
  const { requestId } = await ingest.submit({ project, runId, operation: { case: "update", value: update } }, once);

  for (;;) {
    const { codeByCount } = await ingest.getRequestStatus({ projectIdentifier: project, requestId });
    const { code, detail } = codeByCount[0]!;
    if (code === Code.OK) {
      return;
    }
    if (code !== Code.UNAVAILABLE) {
      throw new Error(`the point was refused: ${IngestCode[detail]}`);
    }
    await setTimeout(20); // accepted, not yet applied
  }
}

async function readPoints(series: UnaryClient<typeof SeriesService>, run: string): Promise<FloatPoint[]> {
  const holder = { identifier: run, type: "experiment" };
  const requests = [{ requestId: "points", series: { attribute: ATTRIBUTE, holder } }];
  const answer = await series.getFloatSeriesValues({ request: { perSeriesPointsLimit: 1000, requests } });
  return answer.series[0]?.series?.values ?? [];
}

/** Tells what a failed call says: its code, its message, and the details that programs go by. */
function describe(error: unknown): string {
  if (!isServiceError(error)) {
    return error instanceof Error ? error.message : String(error);
  }
  const lines = [`${status[error.code]}: ${error.details}`];
  for (const encoded of error.metadata.get("grpc-status-details-bin")) {
    for (const detail of fromBinary(StatusSchema, encoded as Buffer).details) {
      const info = anyUnpack(detail, ErrorInfoSchema);
      if (info) {
        lines.push(`  reason ${info.reason}`);
      }
      for (const violation of anyUnpack(detail, BadRequestSchema)?.fieldViolations ?? []) {
        lines.push(`  field ${violation.field}: ${violation.description}`);
      }
      const delay = anyUnpack(detail, RetryInfoSchema)?.retryDelay;
      if (delay) {
        lines.push(`  try again in ${Number(delay.seconds) + delay.nanos / 1e9} s`);
      }
    }
  }
  return lines.join("\n");
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "metadata" in error && "details" in error;
}

await runWithProject(main, describe);
