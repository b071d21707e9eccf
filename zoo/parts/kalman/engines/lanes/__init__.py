"""Eight sequences at a time, each in a lane of one SIMD value: the recursions where every sequence has its own."""
