"""The Faust application both stream processes share: its settings, and how it is run.

No Faust tables: they lost and doubled events in kill tests (docs/ARCHITECTURE.md). Faust does partitions, rebalancing, agents
and supervision; state and exactness are our own.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import faust
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, conn
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from ..config.schema import Config
from ..errors import BrokerError
from ..runtime.batches import FETCH_BYTES as FETCH_UNPACKED_BYTES
from ..runtime.batches import Opened
from ..runtime.kafka import END_WAIT_MS, WATCH_RETRY_S, TopicWatch
from ..runtime.process import hand_over_quickly, keep_memory
from ..runtime.tasks import spawn

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 15.0
FOLLOW_WAIT_MS = 100
LEAVE_S = 0.1
FETCH_BYTES = 16 << 20
BUFFERED_FRAMES = 256
BUFFER_WAIT_S = 1.0


class CheckedRecords:
    """A fetch response's batches. Their checksums are compared here, by the processor's own instruction: aiokafka's way takes an
    eighth of the whole detector. The layout: https://kafka.apache.org/documentation/#recordbatch"""

    _LENGTH, _BEHIND_LENGTH, _MAGIC, _BEHIND_CRC = 8, 12, 16, 21

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._data = memoryview(data)
        self._at = self._weight = 0
        self.size_in_bytes = self._records.size_in_bytes

    def has_next(self) -> bool:
        return self._weight <= FETCH_UNPACKED_BYTES and bool(self._records.has_next())

    def next_batch(self) -> Any:
        """Raises CorruptRecordException."""
        batch: Any = self._records.next_batch() if self.has_next() else None
        if batch is None:
            return None
        data, at = self._data, self._at
        size = int.from_bytes(data[at + self._LENGTH : at + self._BEHIND_LENGTH], "big")
        end = self._at = at + self._BEHIND_LENGTH + size
        if data[at + self._MAGIC] < 2:
            whole = batch.validate_crc()
        else:
            whole = crc32c(data[at + self._BEHIND_CRC : end]) == batch.crc
        if not whole:
            raise CorruptRecordException(f"the batch at byte {at} of a fetch response does not have its checksum")
        opened = Opened(batch, data[at:end], self._again)
        self._weight += opened.weight
        return opened

    @staticmethod
    def _again(data: bytes) -> Any:
        return MemoryRecords(data).next_batch()


fetcher.MemoryRecords = CheckedRecords
# An answer has megabytes; by default the socket is stopped and started again for each 128 KiB of it.
conn.READER_LIMIT = 8 << 20


class _Thread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust fixes this at 1,500 ms; see kafka.fetch_wait_ms. Read when the consumer starts.
        consumer._fetch_max_wait_ms = self.app.fetch_wait_ms
        return consumer


class _NoMonitor(faust.Monitor):
    """Nobody reads Faust's own figures of each record, and they cost as much as a small frame."""

    on_message_in = faust.Sensor.on_message_in
    on_message_out = faust.Sensor.on_message_out
    on_stream_event_in = faust.Sensor.on_stream_event_in
    on_stream_event_out = faust.Sensor.on_stream_event_out

    def track_tp_end_offset(self, *_: Any) -> None: ...


class _Begun:
    """A coroutine that ran up to its first wait, for somebody else to finish."""

    def __init__(self, coroutine: Any, waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Any:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(sent)
        except StopIteration as done:
            return done.value


async def _finish(begun: _Begun) -> Any:
    return await begun


class _Consumer(driver.Consumer):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._drained = asyncio.Event()

    async def wait_first(self, *coroutines: Any, **options: Any) -> Any:
        """Faust makes four tasks to hand over one record and to notice that the flow stops meanwhile. Nearly every hand-over is
        done at once, without a wait: then nothing of that is needed."""
        deliver, *others = coroutines
        if not hasattr(deliver, "send"):
            return await super().wait_first(*coroutines, **options)
        try:
            waits_for = deliver.send(None)
        except StopIteration:
            for other in others:
                other.close()
            return None
        return await super().wait_first(_finish(_Begun(deliver, waits_for)), *others, **options)

    def on_buffer_drop(self, tp: TP) -> None:
        super().on_buffer_drop(tp)
        self._drained.set()

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 -- Faust's signature
        """Faust sleeps a whole second when the buffers of all partitions are full, however soon they are empty: with one
        partition nearly all of that second is idle. This waits until one has drained, and no longer than Faust."""
        if self.flow_active and self._buffered_partitions and not self._get_active_partitions():
            self._drained.clear()
            try:
                await asyncio.wait_for(self._drained.wait(), BUFFER_WAIT_S)
            except TimeoutError:
                return {}, self._get_active_partitions()
        return await super()._wait_next_records(timeout)

    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Transport(driver.Transport):
    Consumer = _Consumer


def client_settings(config: Config) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes."""
    kafka = config.kafka
    settings: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap.split(",")],
        "security_protocol": kafka.security_protocol,
    }
    if "SSL" in kafka.security_protocol:
        settings["ssl_context"] = ssl.create_default_context(cafile=kafka.ca_file or None)
        if kafka.cert_file:
            settings["ssl_context"].load_cert_chain(kafka.cert_file, kafka.key_file)
    if "SASL" in kafka.security_protocol:
        settings |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.username,
            "sasl_plain_password": kafka.password,
        }
    return settings


def _credentials(config: Config) -> Any:
    settings = client_settings(config)
    context = settings.get("ssl_context")
    if "sasl_mechanism" in settings:
        return faust.SASLCredentials(
            username=config.kafka.username,
            password=config.kafka.password,
            mechanism=config.kafka.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def make_app(config: Config, role: str, fetch_wait_ms: int) -> Any:
    """A Faust application of the consumer group `<prefix>-<role>`."""
    servers = ";".join(f"kafka://{server.strip()}" for server in config.kafka.bootstrap.split(","))
    directory = Path(config.data_dir) / "faust" / role
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    app = faust.App(
        f"{config.kafka.prefix}-{role}",
        broker=servers,
        broker_credentials=_credentials(config),
        datadir=str(directory),
        store="memory://",
        value_serializer="raw",
        key_serializer="raw",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        Monitor=_NoMonitor,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.0,
        broker_request_timeout=20.0,
        broker_commit_interval=1.0,
        broker_max_poll_records=500,
        broker_check_crcs=False,  # CheckedRecords does
        # A frame has up to half a megabyte: many of them in one answer, few of them waiting.
        consumer_max_fetch_size=FETCH_BYTES,
        stream_buffer_maxsize=BUFFERED_FRAMES,
        stream_wait_empty=False,
    )
    app.fetch_wait_ms = fetch_wait_ms
    app.transport = _Transport(app.conf.broker_consumer, app)
    return app


def run_app(app: Any) -> int:
    """Run until SIGTERM. Returns the exit status."""
    worker = faust.Worker(
        app, loop=asyncio.get_event_loop(), override_logging=False, redirect_stdouts=False, quiet=True
    )
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def new_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process; before anything of Faust asks for one."""
    hand_over_quickly()  # Faust's consumer is a thread of its own
    keep_memory()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def wait_for_topics(watch: TopicWatch) -> None:
    """Returns when the broker answers and the topics are there: a stream process has nothing to do without them."""
    while not watch.look():
        time.sleep(WATCH_RETRY_S)


class Producer:
    """Started when it is first needed, acks=all. The embedded broker takes no idempotent aiokafka producer; every record
    written with this one may come twice."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._starting = asyncio.Lock()
        self._client: Any = None

    async def ready(self) -> Any:
        """The aiokafka client. Raises KafkaError."""
        async with self._starting:
            if self._client is None:
                client = AIOKafkaProducer(
                    **client_settings(self._config), acks="all", linger_ms=0, max_request_size=4 << 20
                )
                try:
                    await client.start()
                except BaseException:
                    await client.stop()
                    raise
                self._client = client
        return self._client


async def _leave(consumer: AIOKafkaConsumer) -> None:
    """Stops it, and goes on before the end of its TLS connections: asyncio waits 30 s for a broker's goodbye that does not come,
    and a partition that is taken over would wait with it."""
    await asyncio.wait({spawn(consumer.stop(), "end of a reader")}, timeout=LEAVE_S)


async def read_partition(
    config: Config, topic: str, partition: int, start: int, until: int | None = None
) -> AsyncIterator[Any]:
    """A partition's records from `start`, up to `until` or to its end as it is met. Raises BrokerError.

    The end is the fetch response's high watermark: the embedded broker's `end_offsets` is wrong.
    """
    at = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        **client_settings(config),
        enable_auto_commit=False,
        check_crcs=False,  # CheckedRecords does
        auto_offset_reset="earliest",
        fetch_max_wait_ms=END_WAIT_MS,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    await consumer.start()
    loop = asyncio.get_running_loop()
    try:
        consumer.assign([at])
        consumer.seek(at, start)
        deadline = loop.time() + READ_TIMEOUT_S
        while True:
            batch = await consumer.getmany(at, timeout_ms=50)
            for record in batch.get(at, ()):
                if until is not None and record.offset >= until:
                    return
                yield record
            end = consumer.highwater(at)
            if batch:
                deadline = loop.time() + READ_TIMEOUT_S
            if end is not None and await consumer.position(at) >= (end if until is None else min(end, until)):
                return
            if loop.time() > deadline:
                raise BrokerError(
                    f"{topic}/{partition} could not be read (at {await consumer.position(at)}, end {end}): check the broker"
                )
    finally:
        await _leave(consumer)


async def follow(
    config: Config, topic: str, partitions: int, wait_ms: int = FOLLOW_WAIT_MS
) -> AsyncIterator[list[Any]]:
    """A whole topic from its beginning and on. Yields portions, the first empty ones included: see `highwater`. `wait_ms`: how
    long a broker may hold the fetch that finds no more."""
    assigned = [TopicPartition(topic, n) for n in range(partitions)]
    consumer = AIOKafkaConsumer(
        **client_settings(config),
        enable_auto_commit=False,
        check_crcs=False,  # CheckedRecords does
        auto_offset_reset="earliest",
        fetch_max_wait_ms=max(wait_ms, config.kafka.fetch_wait_ms),
    )
    await consumer.start()
    try:
        consumer.assign(assigned)
        await consumer.seek_to_beginning(*assigned)
        caught_up = False
        while True:
            batches = await consumer.getmany(timeout_ms=100)
            if not caught_up:
                ends = {at: consumer.highwater(at) for at in assigned}
                caught_up = all([end is not None and await consumer.position(at) >= end for at, end in ends.items()])
            yield [record for batch in batches.values() for record in batch] + ([None] if caught_up else [])
    finally:
        await _leave(consumer)
