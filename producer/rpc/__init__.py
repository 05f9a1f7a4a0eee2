"""The gRPC API: `dodil.ignite.v1.ModelService`, on the same service layer as HTTP. Only this package imports grpc."""
