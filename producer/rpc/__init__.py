"""The gRPC gate: `dodil.ignite.v1.ModelService` beside HTTP, to the same service layer. grpc is imported only here."""
