// Logs a point to a run and reads it back over gRPC.
//
//	NEPTUNE_API_TOKEN=... logpoint workspace/project
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	neptune "example.com/logpoint/gen/neptune_api/v1"
)

const (
	attribute = "train/loss"
	patience  = 30 * time.Second // for everything together
)

// Calls that find nobody there are made again. Before version 1.40 gRPC did so only with GRPC_GO_RETRY=on.
const serviceConfig = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "5s", "backoffMultiplier": 2,
	"retryableStatusCodes": ["UNAVAILABLE"]}}]}`

func main() {
	apiToken := os.Getenv("NEPTUNE_API_TOKEN")
	if len(os.Args) != 2 || apiToken == "" {
		fmt.Fprintln(os.Stderr, "usage: NEPTUNE_API_TOKEN=... logpoint workspace/project")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := run(ctx, apiToken, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, describe(err))
		os.Exit(1)
	}
}

func run(ctx context.Context, apiToken, project string) error {
	address, err := grpcAddress(apiToken)
	if err != nil {
		return err
	}
	access := &accessToken{secure: address.Scheme != "grpc"}
	conn, err := dial(address, access)
	if err != nil {
		return err
	}
	defer conn.Close()

	// The API token is for this exchange; all other calls carry the access token.
	tokens, err := neptune.NewAuthServiceClient(conn).ExchangeApiToken(ctx,
		&neptune.ExchangeApiTokenRequest{ApiToken: apiToken})
	if err != nil {
		return err
	}
	access.text = tokens.AccessToken

	runID := randomID()
	created, err := neptune.NewRunsServiceClient(conn).CreateRun(ctx,
		&neptune.CreateRunRequest{ProjectIdentifier: project, RunId: &runID})
	if err != nil {
		return err
	}
	fmt.Printf("run    %s/%s/%s\n", created.OrganizationName, created.ProjectName, created.ShortId)

	if err := logPoint(ctx, neptune.NewIngestServiceClient(conn), project, runID); err != nil {
		return err
	}
	points, err := readPoints(ctx, neptune.NewSeriesServiceClient(conn), created.Id)
	if err != nil {
		return err
	}
	for _, point := range points {
		fmt.Printf("point  %s: step %g, value %g\n", attribute, point.Step, point.Value)
	}
	return nil
}

// logPoint submits a point and waits until it is applied.
func logPoint(ctx context.Context, ingest neptune.IngestServiceClient, project, runID string) error {
	// However often a call with this key arrives, it is one submission.
	once := metadata.AppendToOutgoingContext(ctx, "x-idempotency-key", randomID())
	submitted, err := ingest.Submit(once, &neptune.RunOperation{
		Project: project,
		RunId:   runID,
		Operation: &neptune.RunOperation_Update{Update: &neptune.UpdateRunSnapshot{
			Step:   &neptune.Step{Whole: 1},
			Append: map[string]*neptune.Value{attribute: {Value: &neptune.Value_Float64{Float64: 0.25}}},
		}},
	})
	if err != nil {
		return err
	}
	for {
		outcome, err := ingest.GetRequestStatus(ctx,
			&neptune.GetRequestStatusRequest{ProjectIdentifier: project, RequestId: submitted.RequestId})
		if err != nil {
			return err
		}
		switch part := outcome.CodeByCount[0]; part.Code {
		case code.Code_OK:
			return nil
		case code.Code_UNAVAILABLE: // accepted, not yet applied
			time.Sleep(20 * time.Millisecond)
		default:
			return fmt.Errorf("the point was refused: %s", part.Detail)
		}
	}
}

func readPoints(ctx context.Context, series neptune.SeriesServiceClient, run string) ([]*neptune.FloatPoint, error) {
	answer, err := series.GetFloatSeriesValues(ctx, &neptune.GetFloatSeriesValuesRequest{
		Request: &neptune.FloatSeriesValuesQuery{
			PerSeriesPointsLimit: 1000,
			Requests: []*neptune.FloatSeriesQuery{{
				RequestId: "points",
				Series: &neptune.TimeSeries{
					Attribute: attribute,
					Holder:    &neptune.AttributesHolder{Identifier: run, Type: "experiment"},
				},
			}},
		},
	})
	if err != nil {
		return nil, err
	}
	return answer.Series[0].Series.Values, nil
}

// accessToken is sent with every call as soon as there is one.
type accessToken struct {
	text   string
	secure bool
}

func (token *accessToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if token.text == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + token.text}, nil
}

func (token *accessToken) RequireTransportSecurity() bool { return token.secure }

func dial(address *url.URL, token credentials.PerRPCCredentials) (*grpc.ClientConn, error) {
	security := grpc.WithInsecure() // for a server on this machine
	if token.RequireTransportSecurity() {
		security = grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	return grpc.Dial(address.Host, security, grpc.WithPerRPCCredentials(token),
		grpc.WithDefaultServiceConfig(serviceConfig))
}

// grpcAddress returns what the API token says: grpcs://host:port, or grpc:// for plaintext.
func grpcAddress(apiToken string) (*url.URL, error) {
	var fields struct {
		GrpcURL string `json:"grpc_url"`
	}
	// The errors of these two would show the token.
	decoded, err := base64.StdEncoding.DecodeString(apiToken)
	if err != nil || json.Unmarshal(decoded, &fields) != nil {
		return nil, errors.New("NEPTUNE_API_TOKEN is not an API token: it is no JSON object in base64")
	}
	address, err := url.Parse(fields.GrpcURL)
	if err != nil || address.Host == "" {
		return nil, errors.New("the API token has no grpc_url: its server speaks HTTP only")
	}
	return address, nil
}

// describe tells what a failed call says: its code, its message, and the details that programs go by.
func describe(err error) string {
	failed, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	text := fmt.Sprintf("%s: %s", code.Code(failed.Code()), failed.Message())
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			text += "\n  reason " + detail.Reason
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				text += fmt.Sprintf("\n  field %s: %s", violation.Field, violation.Description)
			}
		case *errdetails.RetryInfo:
			text += fmt.Sprintf("\n  try again in %g s", detail.RetryDelay.AsDuration().Seconds())
		}
	}
	return text
}

func randomID() string {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		panic(err)
	}
	return hex.EncodeToString(id)
}
