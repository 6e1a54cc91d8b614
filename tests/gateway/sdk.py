"""What OpenAI's SDK makes of the gateway's answers. Called as: sdk.py FUNCTION BASE_URL KEY."""

import sys
import time

import openai

FUNCTION, BASE_URL, KEY = sys.argv[1:]


def client(key=KEY, retries=0):
    return openai.OpenAI(base_url=BASE_URL, api_key=key, max_retries=retries, timeout=20)


def ask(sdk, model="helper", **more):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "hi"}]
    return sdk.chat.completions.create(**{"model": model, "messages": messages, **more})


def raises(kind, code, call, status):
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind, repr(error)
        assert error.status_code == status, repr(error)
        assert error.code == code, repr(error)
        assert error.request_id.startswith("req_"), error.request_id
        assert error.body["message"], repr(error)
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def whole():
    answer = ask(client())
    assert answer.choices[0].message.content == "Hello!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "helper" and answer.id.startswith("chatcmpl-")
    assert answer.usage.prompt_tokens == 11 and answer.usage.total_tokens == 18
    assert answer._request_id.startswith("req_")
    assert [model.id for model in client().models.list()] == ["helper"]
    assert client().models.retrieve("team-a/helper").owned_by == "team-a"


def streamed():
    text, usage = "", None
    for chunk in ask(client(), stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
    assert text == "Once upon a time", text
    assert usage.total_tokens == 18, usage
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    with client().chat.completions.stream(
        model="helper", messages=[{"role": "user", "content": "hi"}], tools=tools
    ) as stream:
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert (call.id, call.function.name, call.function.arguments) == ("c1", "f", '{"a":1}'), call


def broken_stream():
    text = ""
    try:
        for chunk in ask(client(), stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        assert text == "Hal", text
        assert error.code == "upstream_broke" and error.message == "the provider's words", repr(error)
        return
    raise AssertionError("an error was expected")


def refusals():
    sdk = client()
    raises(openai.AuthenticationError, "invalid_api_key", lambda: ask(client("sk-wrong")), 401)
    raises(openai.PermissionDeniedError, "permission_denied", lambda: ask(sdk, "team-b/helper"), 403)
    error = raises(openai.NotFoundError, "model_not_found", lambda: ask(sdk, "nobody"), 404)
    assert error.param == "model", error.param
    error = raises(openai.BadRequestError, "invalid_type", lambda: ask(sdk, temperature="hot"), 400)
    assert error.param == "temperature" and error.type == "invalid_request_error", repr(error)
    error = raises(openai.RateLimitError, "queue_full", lambda: ask(sdk, "small"), 429)
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    large = [{"role": "user", "content": "x" * 6_000_000}]
    raises(openai.APIStatusError, "request_too_large", lambda: ask(sdk, messages=large), 413)


def retried():
    began = time.monotonic()
    answer = ask(client(retries=1))
    assert answer.choices[0].message.content == "second time"
    # By itself it would come back after half a second.
    assert time.monotonic() - began >= 1.5, time.monotonic() - began


def suspended():
    raises(openai.InternalServerError, "persona_suspended", lambda: ask(client(retries=2), "asleep"), 503)


def closed():
    stream = ask(client(), stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    # The process ends with it, as a client that crashes does; the connection is closed either way.


globals()[FUNCTION]()
