"""The gateway's Lua, which Envoy runs inside itself. Pure text.

Envoy's own `transform` filter is not used to change bodies: it turns all numbers into floats (a `seed` of 2^63-1 comes out as 2^63,
which vLLM refuses), sorts the keys, and lets a body with a doubled key pass unchanged. What is changed here is nothing but the value.
"""

CLIENT_HEADER, KEYLESS_HEADER = "x-vllm-client", "x-vllm-keyless"
CLUSTER_HEADER, CALLER_HEADER = "x-vllm-cluster", "x-vllm-caller"
"""Of requests whose key has a limit of requests at the same time: the cluster that counts them, and who the caller is, behind it."""
ROUTE_HEADER = "x-vllm-route"
"""Names the route that a request takes, where it is one of those that are looked up by name."""
ASK, SHOW = "ask/", "show/"
"""How such names begin: a model is asked, or shown; its name follows."""
COUNTED_ROUTE = "counted"
PART_HEADER = "x-vllm-part"
"""Names the part of the routes in which a request's is looked up."""
OTHERS, _PARTS = "others", 8
PARTS = tuple(f"names/{number}" for number in range(_PARTS))
"""The parts: `OTHERS` is for what is no model's, the rest for models by their names (part_of)."""
ELSEWHERE = "elsewhere"
"""Wish of a route: that the request takes one of the others instead."""
NAMESPACE = "vllm"
"""Of the metadata that is about a request."""
NO_MODEL, NO_JSON = "__none__", "__error__"
"""Stand in the place of a model's name, where the body has none, or is nothing that could have one."""
CLIENT, PROMPT, CHANGED = "client", "prompt", "changed"
"""Metadata: who asks, where the prompt begins if its route wants to know, and what the model is not asked as the client wrote it."""
LIMIT = "limit"
"""Metadata: the cluster that counts a request, where one does."""
MAX_MODEL_LEN, DROP_TOOLS = "max_model_len", "drop_tools"
"""Wishes of a route: how long prompt and answer may be together, in tokens; that no tools are passed on."""
ASKING = "ask"
"""Marks requests for one of vLLM's paths: looked up once, not for each model's route."""
PATHS = (
    *(
        f"/v1/{each}"
        for each in (
            "chat/completions",
            "completions",
            "responses",
            "messages",
            "embeddings",
            "score",
            "rerank",
            "pooling",
            "classify",
            "audio/transcriptions",
            "audio/translations",
        )
    ),
    "/v2/rerank",
    *(f"/{each}" for each in ("tokenize", "detokenize", "score", "rerank", "pooling", "classify")),
)
"""What is passed on to a model; everything else of vLLM's server (metrics, adapters, sleep) stays inside."""


def part_of(name: str) -> str:
    """The part that has the routes of a model's name. MODEL does the same sum."""
    total = 0
    for byte in name.encode()[-8:]:
        total = total * 31 + byte
    return PARTS[total % _PARTS]


# A request without a key is marked, for the next filter: with a key that is wrong it is refused even where none is needed.
_PATHS = ", ".join(f'["{path}"] = true' for path in PATHS)
KEYLESS = f"""
local paths = {{{_PATHS}}}
function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path"):match("^[^?#]*")
  if paths[path] and headers:get(":method") == "POST" then
    handle:streamInfo():dynamicMetadata():set("{NAMESPACE}", "path", "{ASKING}")
  end
  if headers:get("authorization") == nil and headers:get("x-api-key") == nil then
    headers:replace("{KEYLESS_HEADER}", "open")
  end
end
"""

# A request whose key has a limit of requests at the same time takes a route of its own, before anything of its body is taken in.
COUNTED = f"""
function envoy_on_request(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local client = headers:get("{CLIENT_HEADER}")
  local cluster = client and handle:filterContext():get(client)
  if cluster and (metadata:get("{NAMESPACE}") or {{}})["path"] ~= nil then
    metadata:set("{NAMESPACE}", "{CLIENT}", client)
    metadata:set("{NAMESPACE}", "{LIMIT}", cluster)
    headers:replace("{CLUSTER_HEADER}", cluster)
    headers:replace("{ROUTE_HEADER}", "{COUNTED_ROUTE}")
    handle:clearRouteCache()
  end
end
"""

# Finds the value of the part named `model`, and where in the body it begins and what is behind it.
_FIND_IN_FORM = """
local function find_in_form(body, length)
  local window = 65536
  local pattern = '[nN]ame="model"[^\\r\\n]*\\r\\n\\r\\n()([^\\r\\n]*)()\\r\\n'
  local from, value, behind = body:getBytes(0, math.min(length, window)):match(pattern)
  if value == nil and length > window then
    from, value, behind = body:getBytes(length - window, window):match(pattern)
    if value ~= nil then
      from, behind = from + length - window, behind + length - window
    end
  end
  return value, from, behind
end
"""

# JSON is walked from its first brace to its last, and only members of the outermost object count, never what stands in a message or
# deeper. Of what is JSON the walk finds the members that a parser finds; what is not, and yet gets through, vLLM's own parser refuses.
# Comments and single quotes do not get through: parsers of servers outside may know them, and find another model behind them.
# Envoy's json_to_metadata makes objects of the whole body instead: 60 MB of short numbers become 6 GB, and the gateway is gone.
_WALK = """
local byte = string.byte

local function behind_space(text, at, length)
  while at <= length do
    local found = byte(text, at)
    if found ~= 32 and found ~= 10 and found ~= 13 and found ~= 9 then return at end
    at = at + 1
  end
  return at
end

local function behind_string(text, at, length)
  at = at + 1
  while at <= length do
    local found = byte(text, at)
    if found == 34 then return at + 1 end
    if found == 92 then at = at + 1 elseif found < 32 then return nil end
    at = at + 1
  end
  return nil
end

local function behind_value(text, at, length)
  local depth = 0
  while at <= length do
    local found = byte(text, at)
    if found == 34 then
      at = behind_string(text, at, length)
      if at == nil or depth == 0 then return at end
    elseif found == 123 or found == 91 then
      depth = depth + 1
      at = at + 1
    elseif found == 125 or found == 93 then
      if depth == 0 then return at end
      depth = depth - 1
      at = at + 1
      if depth == 0 then return at end
    elseif depth == 0 and (found == 44 or found == 32 or found == 10 or found == 13 or found == 9) then
      return at
    elseif found == 47 or found == 35 or found == 39 then
      return nil
    else
      at = at + 1
    end
  end
  return nil
end

local escapes = {b = "\\b", f = "\\f", n = "\\n", r = "\\r", t = "\\t", ['"'] = '"', ["\\\\"] = "\\\\", ["/"] = "/"}

local function utf8(code)
  local floor, char = math.floor, string.char
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + floor(code / 0x40), 0x80 + code % 0x40) end
  if code < 0x10000 then
    return char(0xE0 + floor(code / 0x1000), 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return char(
    0xF0 + floor(code / 0x40000), 0x80 + floor(code / 0x1000) % 0x40, 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40
  )
end

-- What a string of JSON, given without its quotes, stands for; nil: it is none.
local function plain(text)
  if not text:find("\\\\", 1, true) then return text end
  local parts, at = {}, 1
  while true do
    local found = text:find("\\\\", at, true)
    if found == nil then break end
    parts[#parts + 1] = text:sub(at, found - 1)
    local short = escapes[text:sub(found + 1, found + 1)]
    local code = tonumber(text:match("^u(%x%x%x%x)", found + 1) or "", 16)
    at = found + 2
    if short == nil then
      if code == nil then return nil end
      at = found + 6
      if code >= 0xD800 and code < 0xE000 then
        local low = tonumber(text:match("^\\\\u([dD][c-fC-F]%x%x)", at) or "", 16)
        if code < 0xDC00 and low ~= nil then
          code, at = 0x10000 + (code - 0xD800) * 0x400 + low - 0xDC00, at + 6
        else
          code = 0xFFFD
        end
      end
      short = utf8(code)
    end
    parts[#parts + 1] = short
  end
  return table.concat(parts) .. text:sub(at)
end

-- Calls visit(key, from, behind, start) for each member, until that says true: its value is what stands from `from` on and before
-- `behind`, its key stands at `start`. Returns whether the text is such an object.
local function walk(text, visit)
  local length, at = #text, 1
  if text:sub(1, 3) == "\\239\\187\\191" then at = 4 end
  at = behind_space(text, at, length)
  if byte(text, at) ~= 123 then return false end
  at = behind_space(text, at + 1, length)
  if byte(text, at) == 125 then return behind_space(text, at + 1, length) > length end
  while at <= length do
    if byte(text, at) ~= 34 then return false end
    local start, behind = at, behind_string(text, at, length)
    if behind == nil then return false end
    local key = plain(text:sub(at + 1, behind - 2))
    at = behind_space(text, behind, length)
    if byte(text, at) ~= 58 then return false end
    at = behind_space(text, at + 1, length)
    behind = behind_value(text, at, length)
    if behind == nil then return false end
    if visit(key, at, behind, start) then return true end
    at = behind_space(text, behind, length)
    local found = byte(text, at)
    if found == 125 then return behind_space(text, at + 1, length) > length end
    if found ~= 44 then return false end
    at = behind_space(text, at + 1, length)
  end
  return false
end
"""

# Names are shown in errors and logs, which hold no other bytes, and not any number of them.
_MODEL = f"""
local function is_json(kind)
  return kind:find("^application/json") ~= nil or kind:find("^application/[a-z.%-]+%+json") ~= nil
end

local function is_form(kind)
  return kind:find("^multipart/form%-data") ~= nil
end

local function is_utf8(text)
  local at, length = 1, #text
  while at <= length do
    local first, second = byte(text, at, at + 1)
    local more = first < 0x80 and 0 or first < 0xC2 and 9 or first < 0xE0 and 1 or first < 0xF0 and 2 or first < 0xF5 and 3 or 9
    if at + more > length then return false end
    for each = at + 1, at + more do
      local found = byte(text, each)
      if found < 0x80 or found > 0xBF then return false end
    end
    if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F) then return false end
    if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F) then return false end
    at = at + more + 1
  end
  return true
end

local function named(name, otherwise)
  if name == nil or not is_utf8(name) then return otherwise end
  -- Envoy would take it for the end.
  name = name:gsub("%z", "\\239\\191\\189")
  if #name > 1024 then return "(a name of " .. #name .. " bytes)" end
  return name
end

-- Parsers take the last one of doubled members.
local function model_in_json(text)
  local from, behind
  local whole = walk(text, function(key, found, after)
    if key == "model" then from, behind = found, after end
  end)
  if not whole then return "{NO_JSON}" end
  if from == nil or byte(text, from) ~= 34 then return "{NO_MODEL}" end
  return named(plain(text:sub(from + 1, behind - 2)), "{NO_JSON}")
end
"""

# Notes who asks, and for which model, and names the route. Models' names have only some bytes; with others nothing is led anywhere.
MODEL = f"""
{_FIND_IN_FORM}
{_WALK}
{_MODEL}
local function lead(headers, kind, name)
  if not name:find("^%w[%w%-%._/:@]*$") then return end
  local total = 0
  for at = math.max(1, #name - 7), #name do
    total = total * 31 + byte(name, at)
  end
  headers:replace("{ROUTE_HEADER}", kind .. name)
  headers:replace("{PART_HEADER}", string.format("names/%d", total % {_PARTS}))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local kind, client = (headers:get("content-type") or ""):lower(), headers:get("{CLIENT_HEADER}")
  local metadata = handle:streamInfo():dynamicMetadata()
  if client ~= nil then metadata:set("{NAMESPACE}", "{CLIENT}", client) end
  if (metadata:get("{NAMESPACE}") or {{}})["path"] ~= nil then
    local model, body = "{NO_MODEL}", handle:body()
    if body ~= nil then
      local length = body:length()
      if is_json(kind) then
        model = model_in_json(body:getBytes(0, length))
      elseif is_form(kind) then
        model = named(find_in_form(body, length), "{NO_MODEL}")
      else
        model = "{NO_JSON}"
      end
    end
    handle:streamInfo():dynamicMetadata():set("{NAMESPACE}", "model", model)
    lead(handle:headers(), "{ASK}", model)
  elseif headers:get(":method") == "GET" then
    lead(headers, "{SHOW}", headers:get(":path"):match("^/v1/models/([^?#]*)") or "")
  end
  handle:clearRouteCache()
end
"""

# Doubled members are changed each time: parsers differ in which one they take. All else stays as it is, byte for byte.
_CHANGE = """
-- `change` says of a member what is written in the place of its value, or false: the member is taken away; nil: it stays.
-- Returns nil if nothing is changed, or the text is no such object.
local function changed_json(text, change)
  local parts, done, kept, gone = {}, 1, nil, false
  local whole = walk(text, function(key, from, behind, start)
    local new = change(key, from, behind)
    if new == false then
      -- With the comma before it. The first ones have none: they go with the comma behind them.
      if kept ~= nil and done < kept then
        parts[#parts + 1] = text:sub(done, kept - 1)
      elseif kept == nil and not gone then
        parts[#parts + 1] = text:sub(1, start - 1)
      end
      done, gone = behind, true
    else
      if kept == nil and gone then done = start end
      if new ~= nil then
        parts[#parts + 1] = text:sub(done, from - 1)
        parts[#parts + 1] = new
        done = behind
      end
      kept = behind
    end
  end)
  if not whole or done == 1 then return nil end
  parts[#parts + 1] = text:sub(done)
  return table.concat(parts)
end

local function quoted(name)
  return '"' .. name:gsub('[%c"\\\\]', function(found) return string.format("\\\\u%04x", byte(found)) end) .. '"'
end

local function renamed_form(body, name)
  local length = body:length()
  local value, from, behind = find_in_form(body, length)
  if value == nil then return nil end
  return body:getBytes(0, from - 1) .. name .. body:getBytes(behind - 1, length - behind + 1)
end
"""

# vLLM 0.32.0 refuses a max_tokens above max_model_len (vllm/renderers/params.py, TokenizeParams) and keeps what is below within what
# the prompt leaves (vllm/entrypoints/serve/utils/api_utils.py, get_max_tokens). Versions before it (0.20) refuse whatever is
# more than the prompt leaves.
# Without a max_tokens, /v1/chat/completions and /v1/responses take all that the prompt leaves, or the max_new_tokens of the model's
# generation_config.json (get_max_tokens too); /v1/completions takes 16, and /v1/messages must have one.
# There is no tokenizer here: two bytes are taken for a token, which is on the safe side, since the tokens of text are rarely shorter.
# 64 are what a chat template may put around it.
_FIT = """
local tokens = {max_tokens = true, max_completion_tokens = true}
local longest = {
  ["/v1/chat/completions"] = tokens,
  ["/v1/completions"] = tokens,
  ["/v1/messages"] = tokens,
  ["/v1/responses"] = {max_output_tokens = true},
}
local takes_all = {["/v1/chat/completions"] = true, ["/v1/responses"] = true}
local with_tools = {["/v1/chat/completions"] = true, ["/v1/messages"] = true, ["/v1/responses"] = true}
local of_tools = {tools = true, tool_choice = true, parallel_tool_calls = true, functions = true, function_call = true}
local asks_tools = {tools = true, tool_choice = true, functions = true}
local nothing = {}

-- What is done with a number of tokens, as `change` says it. What is above max_model_len is refused in any case. What is not, and yet
-- finds no room beside the guess (an image is a long text), is left to vLLM, which knows better: never is an answer made
-- longer than was asked.
local function fitting(text, from, behind, most, room, all)
  local first, last = text:find("^[1-9]%d*", from)
  if first == nil or last + 1 ~= behind then return nil end
  local asked = last - first < 15 and tonumber(text:sub(first, last)) or math.huge
  if asked <= room then return nil end
  if asked >= most and all then return false end
  if room >= 1 then return string.format("%d", room) end
  if asked > most then return string.format("%d", most) end
  return nil
end

-- Returns the `change` that gives the model what it takes, nil if there is nothing to do, and where that notes what it has done.
local function fit(text, path, most, drop)
  local lengths, tools = most and longest[path] or nothing, drop and with_tools[path] and of_tools or nothing
  if lengths == nothing and tools == nothing then return nil end
  local long, asked, size, noted = false, false, #text, {}
  walk(text, function(key, _, behind, start)
    if lengths[key] then long = true end
    if tools[key] then size = size - (behind - start) end
    if tools[key] and asks_tools[key] then asked = true end
  end)
  if not asked then tools, size = nothing, #text end
  if not long and not asked then return nil end
  local room = long and most - math.ceil(size / 2) - 64
  return function(key, from, behind)
    if tools[key] then
      noted.tools = "dropped"
      return false
    end
    if not lengths[key] then return nil end
    local new = fitting(text, from, behind, most, room, takes_all[path])
    if new ~= nil then noted[key] = new or "dropped" end
    return new
  end, noted
end

local function listed(noted)
  local found = {}
  for _, name in ipairs({"max_tokens", "max_completion_tokens", "max_output_tokens", "tools"}) do
    if noted[name] then found[#found + 1] = name .. "=" .. noted[name] end
  end
  return table.concat(found, ", ")
end
"""

# What vLLM keeps of a prompt in its cache begins where the prompt begins.
_PREFIX = """
local prompts = {messages = true, prompt = true, input = true, instructions = true, system = true}

local function beginning(text)
  local found = nil
  walk(text, function(key, from, behind)
    if not prompts[key] then return false end
    found = text:sub(from, math.min(behind - 1, from + 511))
    return true
  end)
  return found
end
"""

REFUSED = (
    '{"error":{"code":"invalid_json","message":"The gateway cannot read the body.","param":"model",'
    '"type":"invalid_request_error"}}'
)
# What the route says is done: to tell where a prompt begins, to call the model by another name, to leave out what it does not take,
# to put a prefix before the path.
REWRITE = f"""
{_FIND_IN_FORM}
{_WALK}
{_MODEL}
{_CHANGE}
{_FIT}
{_PREFIX}
function envoy_on_request(handle)
  local wanted = handle:filterContext()
  if wanted:get("{ELSEWHERE}") then
    handle:headers():remove("{ROUTE_HEADER}")
    handle:headers():replace("{PART_HEADER}", "{OTHERS}")
    handle:clearRouteCache()
    return
  end
  local name, prefix, prompt = wanted:get("name"), wanted:get("prefix"), wanted:get("{PROMPT}")
  local most, drop = wanted:get("{MAX_MODEL_LEN}"), wanted:get("{DROP_TOOLS}")
  if not (prompt or name or most or drop or prefix) then return end
  local body = (prompt or name or most or drop) and handle:body()
  -- What was got before the body has come cannot be used any more.
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local kind = body and (headers:get("content-type") or ""):lower()
  local text = body and is_json(kind) and body:getBytes(0, body:length())
  if prompt and text then
    local found = beginning(text)
    if found then
      -- Bytes may be cut in the middle of a character, which metadata cannot hold.
      metadata:set("{NAMESPACE}", "{PROMPT}", handle:base64Escape(found))
    end
  end
  local changed
  if text then
    local fitted, noted = fit(text, headers:get(":path"):match("^[^?#]*"), most, drop)
    if name or fitted then
      local value = name and quoted(name)
      changed = changed_json(text, function(key, from, behind)
        if value and key == "model" then return value end
        if fitted then return fitted(key, from, behind) end
      end)
    end
    local told = noted and listed(noted) or ""
    if told ~= "" then metadata:set("{NAMESPACE}", "{CHANGED}", told) end
  elseif name and body and is_form(kind) then
    changed = renamed_form(body, name)
  end
  if name and changed == nil then
    handle:respond({{[":status"] = "400", ["content-type"] = "application/json"}}, '{REFUSED}')
    return
  end
  if changed then headers:replace("content-length", tostring(body:setBytes(changed))) end
  if prefix then
    local path = headers:get(":path")
    headers:replace("x-envoy-original-path", path)
    headers:replace(":path", prefix .. path)
  end
end
"""
