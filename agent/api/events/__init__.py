"""The journal as a live stream: CloudEvents over SSE and WebSocket, and the AsyncAPI document about them."""
