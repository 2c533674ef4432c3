// Typed clients on grpc-js for the services that protoc-gen-es generates.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type {
  DescMessage,
  DescMethodUnary,
  DescService,
  Message,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { Client, Metadata, credentials } from "@grpc/grpc-js";
import type { CallOptions } from "@grpc/grpc-js";

/** The RPCs of a service with one request and one response, as functions that return promises. */
export type UnaryClient<Service extends DescService> = {
  [Name in keyof Service["method"]]: Service["method"][Name] extends DescMethodUnary<infer Input, infer Output>
    ? (request: MessageInitShape<Input>, metadata?: Metadata) => Promise<MessageShape<Output>>
    : never;
};

/** Calls that find nobody there are made again. */
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.1s",
        maxBackoff: "5s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
};

/** Connects to grpcs://host:port, or in plaintext to grpc://host:port. */
export function connect(address: URL): Client {
  // Plaintext is for a server on this machine.
  const security = address.protocol === "grpc:" ? credentials.createInsecure() : credentials.createSsl();
  return new Client(address.host, security, { "grpc.service_config": JSON.stringify(SERVICE_CONFIG) });
}

/** Call credentials that send the access token. */
export function bearer(accessToken: string): CallOptions["credentials"] {
  return credentials.createFromMetadataGenerator((_call, done) => {
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${accessToken}`);
    done(null, metadata);
  });
}

/** Makes a client of a service; the options, such as deadline and credentials, are those of every call. */
export function clientOf<Service extends DescService>(
  service: Service,
  connection: Client,
  options: CallOptions,
): UnaryClient<Service> {
  const functions: Record<string, unknown> = {};
  for (const method of service.methods) {
    if (method.methodKind === "unary") {
      functions[method.localName] = (request: MessageInitShape<DescMessage>, metadata = new Metadata()) =>
        new Promise<Message>((resolve, reject) => {
          connection.makeUnaryRequest(
            `/${service.typeName}/${method.name}`,
            (message: Message) => Buffer.from(toBinary(method.input, message)),
            (bytes: Buffer) => fromBinary(method.output, bytes),
            create(method.input, request),
            metadata,
            options,
            (error, response) => (error ? reject(error) : resolve(response!)),
          );
        });
    }
  }
  return functions as UnaryClient<Service>;
}
