"""The part of Consul's HTTP API that clients for discovery use, under `/v1`."""
