"""OpenAI Images: blocking or streamed; JSON, or a form with pictures to edit."""
