"""What writes: survey files in, layers out to object storage, sealing."""
