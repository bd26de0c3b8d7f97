"""Networks whose operations are learned."""
