"""Mail to the on-call, by SMTP (RFC 5321). The Message-ID (RFC 5322 3.6.4) is the message's key, the same at every attempt;
a lifting is a reply to the first message."""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from email.utils import format_datetime, localtime

import aiosmtplib

from ..config.load import parse_address
from ..config.responder import MailConfig
from ..errors import HookError
from .hook import Settings
from .notify import Message, NotifyHook


class MailHook(NotifyHook):
    """See the module."""

    def __init__(self, config: MailConfig, settings: Settings) -> None:
        super().__init__("mail", settings, config.min_level)
        self._config = config
        self._domain = config.sender.rpartition("@")[2].rstrip(">") or "exfilguard.invalid"

    async def deliver(self, message: Message) -> str:
        config = self._config
        host, port = parse_address(config.address)
        context = None
        if config.tls != "none":
            context = ssl.create_default_context(cafile=config.tls_ca or None)
        client = aiosmtplib.SMTP(
            hostname=host, port=port, use_tls=config.tls == "tls", start_tls=config.tls == "starttls",
            tls_context=context, timeout=self.settings.timeout_ms / 1000,
        )  # fmt: skip
        try:
            await client.connect()
            if config.user:
                await client.login(config.user, config.password)
            refused, _ = await client.send_message(self._mail(message))
        finally:
            client.close()  # without QUIT, which would wait for a server that hangs
        if refused:
            raise HookError(f"the mail server took the message for some, but refused {len(refused)} recipients")
        return f"taken for {len(config.recipients)} recipients"

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["From"] = self._config.sender
        mail["To"] = ", ".join(self._config.recipients)
        mail["Subject"] = f"ExfilGuard {message.title}"
        mail["Date"] = format_datetime(localtime())
        mail["Message-ID"] = f"<{message.key}@{self._domain}>"
        mail["References"] = f"<{message.incident}@{self._domain}>"  # one thread an account
        mail["Auto-Submitted"] = "auto-generated"
        if message.level == "lock" and message.operation == "lock":
            mail["Importance"] = "high"
        mail.set_content(message.text)
        return mail

    def explain(self, error: Exception) -> str | None:
        if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
            codes = ", ".join(sorted({str(refused.code) for refused in error.recipients}))
            return f"the mail server refused all recipients ({codes}): check recipients"
        if isinstance(error, aiosmtplib.SMTPResponseException):
            return f"the mail server refused ({error.code}): check sender, recipients, user and password"
        if isinstance(error, aiosmtplib.SMTPException | OSError):
            return f"the mail server cannot be reached ({type(error).__name__}): check address, tls and tls_ca"
        return None
