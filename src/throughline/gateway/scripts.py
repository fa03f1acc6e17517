"""Lua scripts of the Redis store; `limits.py` and `store_sqlite.py` say the same in Python, and one test checks both.

Levels are whole numbers below 2^53, which Lua's doubles hold exactly; `%.0f` writes them without an exponent.
"""

from __future__ import annotations

from throughline.gateway.limits import PARTS

# A bucket that nobody has touched for a minute is full, so that its record may go.
_COMMON = f"""
local PARTS, KEPT_MS = {PARTS}, 120000

local function milliseconds(given)
    if given ~= '' then return tonumber(given) end
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function level(name, kind, limit, now)
    local held = redis.call('HMGET', name, kind .. ':level', kind .. ':at')
    if not held[1] then return limit * PARTS end
    local elapsed = math.max(0, now - tonumber(held[2]))
    return math.min(limit * PARTS, math.min(tonumber(held[1]), limit * PARTS) + elapsed * limit)
end

local function put(name, kind, value, now)
    local at = math.max(now, tonumber(redis.call('HGET', name, kind .. ':at') or now))
    redis.call('HSET', name, kind .. ':level', string.format('%.0f', value), kind .. ':at', string.format('%.0f', at))
    redis.call('PEXPIRE', name, KEPT_MS)
end
"""

# KEYS: key, use. ARGV: now. Returns the key's fields; 1 if a request was taken, 0 if not,
# -1 if the key is not good; both levels; now.
ENTER = (
    _COMMON
    + """
local now = milliseconds(ARGV[1])
local fields = redis.call('HGETALL', KEYS[1])
local key = {}
for i = 1, #fields, 2 do key[fields[i]] = fields[i + 1] end
if key.revoked or (key.expires and now >= key.expires * 1000) then return {fields, -1, 0, 0, now} end
local allowed, requests, tokens = 1, 0, 0
if key.requests then
    requests = level(KEYS[2], 'requests', tonumber(key.requests), now)
    if requests >= PARTS then
        requests = requests - PARTS
        put(KEYS[2], 'requests', requests, now)
    else
        allowed = 0
    end
end
if key.tokens then tokens = level(KEYS[2], 'tokens', tonumber(key.tokens), now) end
return {fields, allowed, requests, tokens, now}
"""
)

# KEYS: use, leases. ARGV: now, lease, parts, milliseconds, tokens a minute or 0, most leases or -1.
# Returns 0, or 1 without tokens, or 2 without a place; the level; now.
RESERVE = (
    _COMMON
    + """
local now, lease, wanted = milliseconds(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local limit, most = tonumber(ARGV[5]), tonumber(ARGV[6])
local held = limit > 0 and level(KEYS[1], 'tokens', limit, now) or 0
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
if redis.call('ZSCORE', KEYS[2], lease) then return {0, held, now} end
if most >= 0 and redis.call('ZCARD', KEYS[2]) >= most then return {2, held, now} end
if limit > 0 then
    if wanted > held then return {1, held, now} end
    held = held - wanted
    put(KEYS[1], 'tokens', held, now)
end
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[4]), lease)
return {0, held, now}
"""
)

# KEYS: use, leases. ARGV: now, lease, parts to give back, tokens a minute or 0. Returns the level, now.
SETTLE = (
    _COMMON
    + """
local now, limit = milliseconds(ARGV[1]), tonumber(ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
local held = limit > 0 and level(KEYS[1], 'tokens', limit, now) or 0
if redis.call('ZREM', KEYS[2], ARGV[2]) == 1 and limit > 0 then
    held = math.min(limit * PARTS, held + tonumber(ARGV[3]))
    put(KEYS[1], 'tokens', held, now)
end
return {held, now}
"""
)

# KEYS: leases. ARGV: now, lease, milliseconds.
RENEW = (
    _COMMON
    + """
local now = milliseconds(ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
return redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', now + ARGV[3]), ARGV[2])
"""
)

# KEYS: answer. ARGV: now, owner, milliseconds.
RENEW_CLAIM = (
    _COMMON
    + """
local now = milliseconds(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'owner', 'answer', 'ends')
if held[1] == ARGV[2] and not held[2] and tonumber(held[3]) > now then
    redis.call('HSET', KEYS[1], 'ends', string.format('%.0f', now + ARGV[3]))
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 0
"""
)

# KEYS: answer. ARGV: now, fingerprint, owner, milliseconds. Returns 0 new, 1 running, 2 another body, 3 and the answer.
CLAIM = (
    _COMMON
    + """
local now = milliseconds(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'fingerprint', 'owner', 'answer', 'ends')
if not held[1] or tonumber(held[4]) <= now then
    redis.call('DEL', KEYS[1])
    local ends = string.format('%.0f', now + ARGV[4])
    redis.call('HSET', KEYS[1], 'fingerprint', ARGV[2], 'owner', ARGV[3], 'ends', ends)
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    return {0, ''}
end
if held[1] ~= ARGV[2] then return {2, ''} end
if held[3] then return {3, held[3]} end
return {held[2] == ARGV[3] and 0 or 1, ''}
"""
)

# KEYS: answer. ARGV: now, owner, answer, milliseconds.
KEEP = (
    _COMMON
    + """
local now = milliseconds(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'owner', 'answer')
if held[1] == ARGV[2] and not held[2] then
    redis.call('HSET', KEYS[1], 'answer', ARGV[3], 'ends', string.format('%.0f', now + ARGV[4]))
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 0
"""
)

# KEYS: answer. ARGV: owner.
RELEASE = """
local held = redis.call('HMGET', KEYS[1], 'owner', 'answer')
if held[1] == ARGV[1] and not held[2] then redis.call('DEL', KEYS[1]) end
return 0
"""
