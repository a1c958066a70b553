from zraft.chaos.result import Result


def render(result: Result) -> str:
    return "<html></html>"
