"""Interceptors of servers, on threads (`grpc`) and on an event loop (`grpc.aio`)."""
