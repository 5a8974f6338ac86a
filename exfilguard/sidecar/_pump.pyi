import asyncio

READ_BYTES: int

class PumpLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None: ...
