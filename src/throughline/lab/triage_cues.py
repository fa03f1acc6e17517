"""Phrases for how bad it is and what the customer wants: four levels, six actions."""

from __future__ import annotations

from throughline.lab.grammar import Banks, bars, lines

SEVERITIES = ("critical", "high", "medium", "low")
ACTIONS = ("restart", "replace", "investigate", "refund", "grant_access", "explain")

_SEVERITY = {
    "critical": lines("""
        {SVC} is (completely |totally |)down.
        {SVC} is (down|offline) for all (customers|users).
        (This is|We have) a (total|complete|full) outage.
        Production has (stopped|halted) (completely|entirely).
        We are losing (money|data) (every minute|right now).
        (Severity|Priority): critical.
        (This is|Please treat this as) critical, production is (down|dead).
        It is an emergency, {SVC} (does not answer at all|is offline).
        All (customers|users) are cut off.
        Nothing works any more, the whole (site|company|platform) is down.
        (Sev1|P1|SEV-1): {SVC} is down.
        We have lost (customer |)data and are still losing more.
        Complete outage, every (customer|user) is offline.
        {SVC} has been offline for {~small} minutes and all customers notice.
        Total outage of the service (on our side|since {~clock}).
        Emergency! (Everything|The whole site) is offline.
        Our (whole|entire) production is dead.
        (Critical|Emergency): production is offline.
        The outage hits every customer and costs us {~number} euros a minute.
        Customers are at risk because {SVC} is down.
        This is a full production outage, wake somebody up.
        The whole company stands still because of this outage.
        Everything is down for (all users|every customer).
        (Major|Critical) outage of {SVC}, all hands needed.
        Revenue is zero while {SVC} is down.
        Please page the on-call engineer, production is offline.
        It takes down {SVC} completely.
        We declared an emergency since {SVC} is offline.
        All of our customers see errors, it is a complete outage."""),
    "high": lines("""
        This is urgent.
        (Our|The) (whole |)team is blocked.
        We are blocked (until this works|by this|and cannot go on).
        (Severity|Priority): high.
        High priority (for us|please), the release is (tomorrow|tonight).
        The deadline is (tomorrow|tonight|today), so please hurry.
        (We need|I need) this (today|within {hours} hours), it is urgent.
        Several (teams|users) are blocked.
        Urgent: the (demo|launch|release) is tomorrow.
        The (release|launch) is blocked by this.
        Please hurry, a deadline is near.
        Half of our (team|nodes|capacity) is blocked.
        It blocks the (release|training run|paper deadline) of tomorrow.
        (A|An important) customer demo is tomorrow morning, so it is urgent.
        Please treat it with high priority.
        (P2|Sev2|SEV-2): {~small} people are blocked.
        We are blocked and the deadline comes closer.
        (Urgent|Very urgent), please answer today.
        {~small} engineers are blocked and wait for you.
        I am blocked and my deadline is tomorrow.
        This has high urgency because the launch depends on it.
        As soon as possible please, we are blocked.
        ASAP please, the deadline is {~clock} today.
        The project is blocked until you answer.
        The release of tomorrow depends on it, so it is urgent.
        Please prioritise this, it is urgent and blocks {~small} users.
        A large part of the team is blocked since {~clock}.
        Urgent: the deadline is tonight.
        Our launch tomorrow depends on it, so high priority."""),
    "medium": lines("""
        (It|The service) still works, only slower.
        There is a workaround, but it (is annoying|costs time).
        We have a workaround (for now|in place|until it is fixed).
        (Severity|Priority): medium.
        Performance is degraded, but (the service runs|we can work).
        It happens (sometimes|now and then), not always.
        Normal priority.
        (Medium|Normal) priority, we can work around it.
        (P3|Sev3|SEV-3): degraded but usable.
        It is slower than normal, by {~small} percent.
        We can go on with a workaround.
        It is intermittent and a bit slower, we have a workaround.
        The service is degraded but usable.
        Only part of the service is degraded.
        Some of the nodes are slower, but they still work.
        It is annoying, but there is a workaround.
        For the moment we use a workaround on another node.
        Some runs are slower than normal, most are fine.
        Moderate impact: things are slower, yet they work.
        Everything works, only slower than normal.
        Throughput is degraded by {~small} percent.
        It is annoying, now and then we must retry.
        We still work, only slower.
        The impact is moderate, there is a workaround.
        It is intermittent, a retry works.
        It is annoying because everything is slower.
        Usable but degraded.
        Normal urgency, the workaround holds for some days.
        It works only sometimes, a retry is our workaround."""),
    "low": lines("""
        No hurry (at all|).
        (Low priority|This is low priority) (for us|from our side|).
        (Severity|Priority): low.
        (It is|This is) (only |purely |just |)cosmetic.
        Whenever you (have|find) time (is fine|).
        There is no rush.
        Nobody is affected, it is just a question.
        (It is|This is) a minor (thing|detail|issue).
        Next week (is fine|is early enough).
        Just curious, there is no impact.
        (P4|Sev4|SEV-4): minor, no impact.
        Take your time.
        It can wait (until next week|for the next maintenance).
        We can wait, no hurry.
        It is trivial and can wait.
        No impact on our work, only a cosmetic detail.
        Only a minor detail, no rush.
        Please do not hurry, nothing depends on it.
        There is no impact for anybody.
        Lowest priority, when you have a quiet moment.
        It is not important and can wait.
        A trivial matter, take your time.
        It does not bother anybody, so no hurry.
        Answer next week, low priority.
        It is a minor thing on a test machine that nobody uses.
        Answer when you find time, there is no impact.
        I am just curious, no rush.
        Really minor, it can wait.
        Nothing is affected, whenever you have time."""),
}

_ACTION = {
    "restart": lines("""
        (Please|Kindly|Pls) (restart|reboot) {BOX}.
        (Could|Can|Would) you (please |)(restart|reboot|power-cycle) {BOX}?
        We (ask for|need|want) a (restart|reboot) of {BOX}.
        (Restart|Reboot) {BOX}, please.
        A (restart|reboot|power cycle) (of {BOX} |)would help (us|).
        (Requested action|Action|Request): (restart|reboot).
        Would somebody (reboot|restart) {BOX} for us?
        Please power-cycle {BOX}.
        Please turn {BOX} off and on again.
        I would like {BOX} to be restarted.
        {BOX} needs a (reboot|restart), please do it.
        All we ask for is a reboot of {BOX}.
        Please do a (clean|cold|hard) (restart|reboot).
        Is a reboot possible? Please go ahead with it.
        You may (restart|reboot) {BOX} at any time, please do.
        Please bring {BOX} back with a restart.
        We have no rights to reboot it, so please restart {BOX}.
        It has to be rebooted, can you do that?
        Please trigger a power cycle of {BOX}.
        Could someone give {BOX} a restart?
        Our wish: (reboot|restart) {BOX}.
        Please reset {BOX} with a cold boot.
        (Restarting|Rebooting) {BOX} is all we want."""),
    "replace": lines("""
        (Please|Kindly|Pls) (replace|swap|exchange) {UNIT}.
        (Could|Can|Would) you (please |)(replace|swap|exchange) {UNIT}?
        We (ask for|need|want) a replacement (of {UNIT}|under warranty|).
        (Replace|Swap) {UNIT}, please.
        A replacement would help (us|).
        (Requested action|Action|Request): (replace|replacement).
        Please mail us a (spare part|new one).
        Please swap {UNIT} for a (new|working) one.
        I would like {UNIT} to be replaced.
        {UNIT} needs to be replaced, please arrange it.
        All we ask for is a replacement of {UNIT}.
        Please ship a spare and exchange {UNIT}.
        Please open an RMA for {UNIT}.
        Is an exchange of {UNIT} possible? Please go ahead with it.
        Please arrange an RMA, we want a new one.
        Can your technician swap {UNIT}? Please do.
        Please put in a (spare|new one) instead of {UNIT}.
        It has to be exchanged, can you do that?
        We want {UNIT} swapped under warranty.
        Could someone exchange {UNIT} for a spare?
        Our wish: (swap|replace) {UNIT}.
        Please exchange {UNIT} for a new one.
        (Replacing|Swapping) {UNIT} is all we want."""),
    "investigate": lines("""
        (Please|Kindly|Pls) (investigate|look into it|have a look).
        (Could|Can|Would) you (please |)(investigate|look into this|debug this)?
        We (ask for|need|want) an investigation.
        Please find the (root cause|cause|bug).
        An investigation would help (us|).
        (Requested action|Action|Request): (investigate|investigation).
        Please (check|analyse) the logs (and find the cause|).
        Would somebody look into it (for us|)?
        Please debug this (with us|).
        I would like somebody to investigate.
        It needs to be investigated, please take a look.
        All we ask for is an analysis of the logs.
        Please dig into it and find the root cause.
        Please take a look (at the logs|at it).
        Is an investigation possible? Please go ahead with it.
        Please inspect the logs of {host} and find out where it breaks.
        Could an engineer look into this and track down the bug?
        It has to be analysed, can you do that?
        Please trace the root cause.
        Could someone take a look at it and debug it?
        Our wish: investigate and find the cause.
        Please run your diagnostics and investigate.
        Looking into the root cause is all we want."""),
    "refund": lines("""
        (Please|Kindly|Pls) refund (us|the amount|the lost hours).
        (Could|Can|Would) you (please |)(refund|reimburse) (us|the amount|the hours)?
        We (ask for|need|want) a refund (of the lost hours|of the amount|).
        We want our money back.
        A (refund|reimbursement) would be fair.
        (Requested action|Action|Request): refund.
        Please (credit|give back) {~number} euros.
        Please pay back the lost hours.
        I would like to be reimbursed.
        The hours need to be refunded, please arrange it.
        All we ask for is our money back.
        Please transfer the money back to us.
        Please credit the lost hours to our account.
        Is a refund possible? Please go ahead with it.
        Please reimburse us for {~number} hours.
        You owe us {~number} euros, please pay them back.
        We expect a refund for the time lost.
        It has to be refunded, can you do that?
        We would like a refund of {~number} euros.
        Could someone refund the {~number} euros?
        Our wish: a refund.
        Please return the money.
        (A reimbursement|Getting our money back) is all we want."""),
    "grant_access": lines("""
        (Please|Kindly|Pls) (grant|give) {WHO} access.
        (Could|Can|Would) you (please |)(grant|give) {WHO} access?
        We (ask for|need|want) access for {WHO}.
        Please (add|admit) {WHO} to the (group|project).
        Access for {WHO} would help (us|).
        (Requested action|Action|Request): (grant access|access).
        Please unlock the account of {WHO}.
        Please let {WHO} in again.
        I would like {WHO} to get access.
        {WHO} needs access, please arrange it.
        All we ask for is access for {WHO}.
        Please enable the account for {WHO} and grant access.
        Please give {WHO} the rights.
        Is access for {WHO} possible? Please go ahead with it.
        Please restore the access of {WHO}.
        Please assign the right role to {WHO}.
        We ask you to authorise {WHO}.
        Access has to be granted to {WHO}, can you do that?
        Please give back the permissions of {WHO}.
        Could someone grant access to {WHO}?
        Our wish: grant {WHO} access.
        Please add the permissions that {WHO} needs.
        (Access|Getting access) for {WHO} is all we want."""),
    "explain": lines("""
        (Please|Kindly|Pls) explain (what this means|this to us|why this happens).
        (Could|Can|Would) you (please |)explain (this|what it means|how this works)?
        We (ask for|need|want) an explanation.
        What does (this|it) mean?
        An explanation would help (us|).
        (Requested action|Action|Request): (explain|explanation).
        Please tell us the meaning of it.
        Would somebody explain it to us?
        I would like to understand (this|what it means).
        It needs to be explained, please write two sentences.
        All we ask for is an explanation.
        Please describe in simple words what this means.
        Help me understand what it means.
        Is it possible to explain this? Please do so.
        We only want to understand it.
        Please point us to a page of the manual that explains it.
        I do not understand it, what does it mean?
        Can you tell us what that means and how it works?
        How should we understand this? Please explain.
        Could someone explain the meaning?
        Our wish: explain how this works.
        Please give us an explanation in plain words.
        (Understanding it|An explanation) is all we want."""),
}

# What may stand around a severity cue and how any wish may be put; neither tells the level or the wish.
_IMPACT = lines("""
    Impact: {V}
    As for the impact: {V}
    (How bad is it?|How urgent?) {V}
    So you know: {V}
    For your planning: {V}
    To rank it: {V}
    About the urgency: {V}
    You should know this: {V}
    What it means for us: {V}
    My manager says: {V}
    On our side: {V}
    In terms of business: {V}
    Note: {V}
    Effect: {V}
    (And|Also,) {V}
    Our view: {V}""")
# Level words in common frames.
_RATING = lines("""
    We rate this as {V}.
    (This|It) is {V} (for us|on our side|).
    (Please treat|Treat) it as {V}.
    For us (it|this) is {V}.
    (I|We) would call (it|this) {V}.
    My rating: {V}.
    The impact: {V}.
    Urgency: {V}.
    (How bad|How urgent)? {V}.
    To us this means {V}.
    Our team lead calls it {V}.
    (It|This) counts as {V} here.
    You can file it under {V}.
    At the moment it is {V}.
    (Sadly|Well), it is {V}.
    Consider it {V}.
    In our books that is {V}.
    {V}, I would say.
    {V} - that is the state.
    (Effect|Result): {V}.
    I think that it is {V}.
    In one word: {V}.
    Business impact is {V}.
    Clearly {V}.
    That makes it {V}.
    Everybody here says: {V}.
    So it is {V} now.
    As of today it is {V}.""")
_WISH = lines("""
    (Please|Kindly|Pls) {V}.
    (Could|Can|Would) you (please |kindly |){V}?
    We (ask|want|need) you to {V}.
    (I|We) would like you to {V}.
    It would be (great|nice|good) if you could {V}.
    We kindly ask you to {V}.
    The best would be to {V}.
    Would it be possible to {V}?
    (What we want|My wish|Our wish) is simple: {V}.
    To do for you: {V}.
    (Next step|Next): {V}, please.
    Our request is to {V}.
    My request: {V}.
    If you do not mind, please {V}.
    I suggest that you {V}.
    We hope that you can {V}.
    Can somebody {V}?
    Is there a chance to {V}?
    You are kindly asked to {V}.
    We think you should {V}.
    (Somebody|Someone) has to {V}, please.
    I would be glad if you could {V}.
    It is time to {V}, we think.
    Just {V}, please.
    We expect you to {V}.
    @support please {V}
    Action needed: {V}.
    Tell me when you can {V}.
    Let us know when you {V}, we wait for it.
    Ask your technician to {V}.
    All I want: {V}.
    So please {V} and tell us.
    Thanks if you can {V}.
    We would be happy if you {V}.""")

BANKS = Banks(
    divided={
        "IMPACT": _IMPACT,
        "RATING": _RATING,
        "WISH": _WISH,
        **{f"SEV_{name.upper()}": v for name, v in _SEVERITY.items()},
        **{f"ACT_{name.upper()}": v for name, v in _ACTION.items()},
    },
    shared={
        "LEVEL_CRITICAL": bars("""
            critical | an emergency | a (total|full|complete) outage | a production outage | production down
            | a critical outage | an outage for all customers | everything offline | production offline
            | a complete standstill of production | top critical, {SVC} is down"""),
        "LEVEL_HIGH": bars("""
            urgent | very urgent | high priority | a blocker for (our|the) team | high | blocking our release
            | urgent because of the deadline | high urgency | blocking {~small} users | urgent, we are blocked
            | high priority, the release is tomorrow"""),
        "LEVEL_MEDIUM": bars("""
            medium | medium priority | normal priority | annoying, but there is a workaround
            | degraded but usable
            | moderate | slower than normal | a moderate slowdown | annoying but it still works
            | intermittent | normal, we have a workaround"""),
        "LEVEL_LOW": bars("""
            low | low priority | cosmetic | only cosmetic | minor | a minor (detail|thing) | trivial
            | no rush | no hurry at all | of no impact | just a question, no hurry | a trivial detail"""),
        "DO_RESTART": bars("""
            (restart|reboot) {BOX} | power-cycle {BOX} | turn {BOX} off and on again | do a reboot
            | do a restart of {BOX} | trigger a (reboot|power cycle) of {BOX} | have {BOX} rebooted
            | get {BOX} restarted | reset {BOX} with a power cycle"""),
        "DO_REPLACE": bars("""
            (replace|swap|exchange) {UNIT} | swap {UNIT} for a new one | send us a (replacement|spare)
            | have {UNIT} (replaced|swapped|exchanged) | arrange (an exchange|a replacement) of {UNIT}
            | open an RMA for {UNIT} | put in a spare instead of {UNIT} | get {UNIT} exchanged"""),
        "DO_INVESTIGATE": bars("""
            investigate (it|this) | look into (it|this) | find the (root cause|cause|bug) | debug (it|this)
            | analyse the logs | have (it|this) investigated | dig into the logs | check the logs
            | start an investigation | do an investigation | get it analysed | trace the root cause"""),
        "DO_REFUND": bars("""
            refund us | refund (the amount|the lost hours|{~number} euros) | reimburse us | pay the money back
            | give us our money back | have the lost hours (refunded|reimbursed) | credit us {~number} euros
            | arrange a (refund|reimbursement)
            | make a (refund|reimbursement) | get us refunded"""),
        "DO_GRANT_ACCESS": bars("""
            (grant|give) {WHO} access | grant access to {WHO} | let {WHO} in | unlock the account of {WHO}
            | authorise {WHO} | give {WHO} the (rights|permissions|right role) | have access granted to {WHO}
            | add {WHO} to the (project|group) | restore the access of {WHO}"""),
        "DO_EXPLAIN": bars("""
            explain (it|this|what it means|how it works) | tell us what (it|this) means
            | help us understand (it|this) | help us with understanding it
            | give us an explanation | describe what (it|this) means | have it explained to us
            | explain the meaning | write an explanation | point us to an explanation in the manual"""),
        "SVC": bars("""
            production | our production (system|cluster|service|) | the customer site
            | our web shop | the (chat|speech|search|translation) product | our public API
            | the hospital system | the trading platform | the live service | our main product"""),
        "BOX": bars("""
            the (node|machine|server|host|box|instance) | {host} | it | the (node|server) {host}
            | our (node|machine|server|instance)"""),
        "UNIT": bars("""
            the (card|board|unit|module|part|hardware) | it
            | the (faulty|broken|defective) (card|board|part|unit) | this (card|unit|board)"""),
        "WHO": bars("{username} | my colleague | {person} | me | us | the new colleague | our team | the user"),
    },
)
