"""What is raised for a file that can not be read exactly."""


class ReadError(ValueError):
    """A file that can not be read exactly; the message says where, why, and what to do."""

    def about(self, file: object) -> str:
        """The message with the file's name before it."""
        message = str(self)
        return f"{file} {message[3:]}" if message.startswith("it ") else f"{file}: {message}"
