import com.example.neptune.AttributesHolder;
import com.example.neptune.AuthServiceGrpc;
import com.example.neptune.CreateRunRequest;
import com.example.neptune.ExchangeApiTokenRequest;
import com.example.neptune.FloatPoint;
import com.example.neptune.FloatSeriesQuery;
import com.example.neptune.FloatSeriesValuesQuery;
import com.example.neptune.GetFloatSeriesValuesRequest;
import com.example.neptune.GetRequestStatusRequest;
import com.example.neptune.IngestServiceGrpc;
import com.example.neptune.IngestServiceGrpc.IngestServiceBlockingStub;
import com.example.neptune.Run;
import com.example.neptune.RunOperation;
import com.example.neptune.RunsServiceGrpc;
import com.example.neptune.SeriesServiceGrpc;
import com.example.neptune.SeriesServiceGrpc.SeriesServiceBlockingStub;
import com.example.neptune.Step;
import com.example.neptune.TimeSeries;
import com.example.neptune.UpdateRunSnapshot;
import com.example.neptune.Value;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.CallCredentials;
import io.grpc.Deadline;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

/**
 * Logs a point to a run and reads it back over gRPC.
 *
 * <pre>NEPTUNE_API_TOKEN=... java LogPoint workspace/project</pre>
 */
public final class LogPoint {
  private static final String ATTRIBUTE = "train/loss";
  private static final int PATIENCE_SECONDS = 30; // for everything together

  /** Calls that find nobody there are made again. */
  private static final String SERVICE_CONFIG =
      """
      {"methodConfig": [{"name": [{}], "retryPolicy": {
        "maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "5s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]}}]}
      """;

  public static void main(String[] arguments) throws InterruptedException {
    String apiToken = System.getenv("NEPTUNE_API_TOKEN");
    if (arguments.length != 1 || apiToken == null || apiToken.isEmpty()) {
      System.err.println("usage: NEPTUNE_API_TOKEN=... java LogPoint workspace/project");
      System.exit(2);
    }
    try {
      run(apiToken, arguments[0]);
    } catch (StatusRuntimeException error) {
      System.err.println(describe(error));
      System.exit(1);
    } catch (IllegalArgumentException | IllegalStateException error) {
      System.err.println(error.getMessage());
      System.exit(1);
    }
  }

  private static void run(String apiToken, String project) throws InterruptedException {
    ManagedChannel channel = open(grpcAddress(apiToken));
    try {
      Deadline deadline = Deadline.after(PATIENCE_SECONDS, TimeUnit.SECONDS);

      // The API token is for this exchange; all other calls carry the access token.
      var auth = AuthServiceGrpc.newBlockingStub(channel).withDeadline(deadline);
      var exchange = ExchangeApiTokenRequest.newBuilder().setApiToken(apiToken).build();
      var credentials = new AccessToken(auth.exchangeApiToken(exchange).getAccessToken());

      var runs = RunsServiceGrpc.newBlockingStub(channel).withCallCredentials(credentials).withDeadline(deadline);
      String runId = UUID.randomUUID().toString();
      Run created =
          runs.createRun(CreateRunRequest.newBuilder().setProjectIdentifier(project).setRunId(runId).build());
      System.out.printf(
          "run    %s/%s/%s%n", created.getOrganizationName(), created.getProjectName(), created.getShortId());

      var ingest = IngestServiceGrpc.newBlockingStub(channel).withCallCredentials(credentials).withDeadline(deadline);
      logPoint(ingest, project, runId);

      var series = SeriesServiceGrpc.newBlockingStub(channel).withCallCredentials(credentials).withDeadline(deadline);
      for (FloatPoint point : readPoints(series, created.getId())) {
        System.out.printf("point  %s: step %s, value %s%n", ATTRIBUTE, point.getStep(), point.getValue());
      }
    } finally {
      channel.shutdownNow();
    }
  }

  /** Submits a point and waits until it is applied. */
  private static void logPoint(IngestServiceBlockingStub ingest, String project, String runId)
      throws InterruptedException {
    var operation =
        RunOperation.newBuilder()
            .setProject(project)
            .setRunId(runId)
            .setUpdate(
                UpdateRunSnapshot.newBuilder()
                    .setStep(Step.newBuilder().setWhole(1))
                    .putAppend(ATTRIBUTE, Value.newBuilder().setFloat64(0.25).build()))
            .build();
    // However often a call with this key arrives, it is one submission.
    var once = new Metadata();
    once.put(Metadata.Key.of("x-idempotency-key", Metadata.ASCII_STRING_MARSHALLER), UUID.randomUUID().toString());
    var submitted = ingest.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(once)).submit(operation);

    var question =
        GetRequestStatusRequest.newBuilder()
            .setProjectIdentifier(project)
            .setRequestId(submitted.getRequestId())
            .build();
    while (true) {
      var outcome = ingest.getRequestStatus(question).getCodeByCount(0);
      switch (outcome.getCode()) {
        case OK -> {
          return;
        }
        case UNAVAILABLE -> Thread.sleep(20); // accepted, not yet applied
        default -> throw new IllegalStateException("the point was refused: " + outcome.getDetail());
      }
    }
  }

  private static List<FloatPoint> readPoints(SeriesServiceBlockingStub series, String run) {
    var holder = AttributesHolder.newBuilder().setIdentifier(run).setType("experiment");
    var query =
        FloatSeriesValuesQuery.newBuilder()
            .setPerSeriesPointsLimit(1000)
            .addRequests(
                FloatSeriesQuery.newBuilder()
                    .setRequestId("points")
                    .setSeries(TimeSeries.newBuilder().setAttribute(ATTRIBUTE).setHolder(holder)));
    var answer = series.getFloatSeriesValues(GetFloatSeriesValuesRequest.newBuilder().setRequest(query).build());
    return answer.getSeries(0).getSeries().getValuesList();
  }

  private static ManagedChannel open(URI address) {
    var builder = ManagedChannelBuilder.forAddress(address.getHost(), address.getPort());
    if (address.getScheme().equals("grpc")) {
      builder.usePlaintext(); // for a server on this machine
    }
    Map<String, ?> serviceConfig = new Gson().<Map<String, ?>>fromJson(SERVICE_CONFIG, Map.class);
    return builder.defaultServiceConfig(serviceConfig).enableRetry().build();
  }

  /** Returns what the API token says: grpcs://host:port, or grpc:// for plaintext. */
  private static URI grpcAddress(String apiToken) {
    JsonObject fields;
    try {
      String text = new String(Base64.getDecoder().decode(apiToken), StandardCharsets.UTF_8);
      fields = new Gson().fromJson(text, JsonObject.class);
    } catch (IllegalArgumentException | JsonParseException error) { // whose own text would show the token
      throw new IllegalArgumentException("NEPTUNE_API_TOKEN is not an API token: it is no JSON object in base64");
    }
    if (fields == null || !fields.has("grpc_url")) {
      throw new IllegalArgumentException("the API token has no grpc_url: its server speaks HTTP only");
    }
    return URI.create(fields.get("grpc_url").getAsString());
  }

  /** Tells what a failed call says: its code, its message, and the details that programs go by. */
  private static String describe(StatusRuntimeException error) {
    var text = new StringBuilder("%s: %s".formatted(error.getStatus().getCode(), error.getStatus().getDescription()));
    var status = StatusProto.fromThrowable(error);
    try {
      for (Any detail : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          text.append("\n  reason ").append(detail.unpack(ErrorInfo.class).getReason());
        } else if (detail.is(BadRequest.class)) {
          for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
            text.append("\n  field %s: %s".formatted(violation.getField(), violation.getDescription()));
          }
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          text.append("\n  try again in %s s".formatted(delay.getSeconds() + delay.getNanos() / 1e9));
        }
      }
    } catch (InvalidProtocolBufferException unreadable) {
      text.append("\n  details that cannot be read");
    }
    return text.toString();
  }

  /** Sends the access token with a call. */
  private static final class AccessToken extends CallCredentials {
    private static final Metadata.Key<String> AUTHORIZATION =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private final String token;

    AccessToken(String token) {
      this.token = token;
    }

    @Override
    public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
      var headers = new Metadata();
      headers.put(AUTHORIZATION, "Bearer " + token);
      applier.apply(headers);
    }

    @Override
    public void thisUsesUnstableApi() {}
  }
}
