"""Phrases around the facts of a ticket: mentions of codes and cards, openings, closings, clutter, forms."""

from __future__ import annotations

from throughline.lab.grammar import Banks, lines

_CODE = lines("""
    The (error |)code is {code}.
    (It|The tool|The console) (shows|prints|reports|returns) (error |code |){code}.
    We (get|see|receive) (error|code|fault) {code} (each time|again and again|).
    It (fails|stops|ends|aborts) with {code}.
    The (log|console|screen|dashboard) says {code}.
    Error {code} (comes up|appears|is shown).
    The (screen|display|message) reads "{code}".
    (Error|Code|Fault|Err): {code}
    (err|code|error|fault|errno)={code}
    (error|err|code)={code} in the log.
    The last (line|entry) (in|of) the log is {code}.
    The fault (number|code|id) is {code}.
    Our monitoring raised {code}.
    It ends in [{code}].
    (I|We) noted the (error |fault |){code}.
    The (error message|message|alert) was: {code}
    According to the tool the error is {code}.
    The event viewer lists (error |){code}.
    The error that I see is {code}.
    Return code {code}.
    (Got|Getting|Seeing) {code} (all the time|now|every time).
    (There is|I found) an error called {code}.
    (Exit|Exception|Alarm) {code}.
    {code} is the (error|code) (that we get|in the log|shown).
    {code} (comes up|appears|is printed) each time.
    The exception carries {code}.
    Fault code `{code}`.
    It throws {code} (and dies|and exits|).
    The alarm (list|page) has {code} in it.
    With error code {code}.
    The code on the (screen|panel) was "{code}".
    Raised: {code}
    As error we read '{code}'.
    In dmesg there is error {code}.
    {code} was logged as the error.
    Traceback ends with "{code}".
    The report names the error {code}.
    RuntimeError: {code}
    > error {code}
    The error identifier is <{code}>.""")
_GPU = lines("""
    The card is (a|an) {card}.
    We (run on|use|have) {card}.
    The (node|machine|server) has {~small} {card} cards.
    It is an (NVIDIA |){card}.
    All (machines|nodes) carry {card} cards.
    This is on a {card} node.
    (GPU|Card|Hardware|Device): {card}
    (gpu|card|device)={card}
    The work (was sent|went) to the {card} pool.
    The affected (board|card) is the {card}.
    The hardware is {card}.
    We rent {~small}x {card}.
    On the {card} it is the same.
    The {card} worked well until {~date}.
    It is the same on every {card}.
    Only our {card} does it.
    Our GPU is the {card}.
    (Model|Type) of the card: {card}
    The GPU in question is "{card}".
    It concerns (the|our) {card}.
    nvidia-smi names it {card}.
    {card} is the (card|GPU|hardware) (that we use|here|in question).
    Inside is one {card}.
    The server was delivered with {card} boards.
    (Using|Running) {card} here.
    lspci lists (a|one) {card}.
    The device name is {card}.
    The (instance|flavour) comes with {card}.
    We booked {card} (cards|instances).
    Equipped with {card}.
    The accelerator is {card}.
    A single {card} sits in the box.
    (Machine type|Instance type) with {card} GPU.
    By the way, we talk about {card}.""")
_BOTH = lines("""
    The {card} on {host} reports (error |){code}.
    Error {code} (appears|comes up|is shown) on the {card}.
    Our {card} stopped with {code}.
    On {host} ({card}) we see (error |code |){code}.
    The {card} card threw {code} (at {~clock}|).
    With the {card} we get error {code}.
    Node {host}, {card}, error {code}.
    {host}: {card} failed, code {code}.
    The {card} shows the error {code}.
    GPU {card}, (code|error|fault) {code}.
    {card}: {code}
    gpu={card} (err|code|error)={code}
    (code|error|err)={code} gpu={card}
    Error: {code}, card: {card}
    "{code}" is what our {card} (prints|reports).
    {card} / error {code}
    The {card} in slot {~small} fails with {code}.
    Card {card} says {code}.
    We read {code} as the error of the {card}.
    {card} on {host} went away with {code}.
    Code {code} on (a|our) {card}.
    Fault {code} ({card})""")
_LOG_BOTH = lines("""
    {~timestamp} {host} kernel: {card}: error {code}
    [{~timestamp}] ERROR {card} {code}
    {~timestamp} ERROR device={card} code={code}
    {host} | {card} | ERR | {code}
    | 0 {card} | {~small}C | {~number}MiB | ERR {code} |
    GPU 0: {card} | {~small}% | err {code}
    {"gpu": "{card}", "error": "{code}", "host": "{host}"}
    {"host": "{host}", "code": "{code}", "device": "{card}"}
    {"time": "{~clock}", "err": "{code}", "card": "{card}"}
    Traceback (most recent call last): RuntimeError: [{code}] on device {card}
    <event host="{host}" gpu="{card}" code="{code}"/>
    $ nvidia-smi -L: {card} (error {code})
    E{~small} {host} gpu_watch: {card} raised {code}
    level=error gpu="{card}" msg="{code}"
    File "train.py", line {~small}: CudaError {code} ({card})
    {card};{code};{~clock};failed
    WARN {~clock} {card} unhealthy, fault {code}
    FATAL {~timestamp} {code} at {card}
    health: device {card} state=failed reason={code}
    {host} $ dmesg | tail -1: {card} fault {code}""")
_LOG_CODE = lines("""
    {~timestamp} {host} kernel: error {code}
    [{~timestamp}] ERROR {code}
    {~timestamp} ERROR code={code}
    {host} | ERR | {code}
    {"error": "{code}", "host": "{host}"}
    {"host": "{host}", "code": "{code}", "retry": {~small}}
    {"time": "{~clock}", "err": "{code}"}
    Traceback (most recent call last): RuntimeError: [{code}]
    <event host="{host}" code="{code}"/>
    E{~small} {host} watch: raised {code}
    level=error msg="{code}"
    File "train.py", line {~small}: Error {code}
    {~clock};error;{code};failed
    WARN {~clock} unhealthy, fault {code}
    FATAL {~timestamp} {code}
    state=failed reason={code}
    status: error, code: {code}
    HTTP 500 {"code": "{code}"}
    {host} $ dmesg | tail -1: fault {code}""")
_LOG_GPU = lines("""
    {~timestamp} {host} kernel: {card} found
    | 0 {card} | {~small}C | {~number}MiB |
    GPU 0: {card} | {~small}%
    {"gpu": "{card}", "host": "{host}"}
    {"device": "{card}", "slot": {~small}}
    $ nvidia-smi -L: {card}
    level=info gpu="{card}"
    device 0 = {card}, {~number} MiB
    lspci: 3D controller {card}
    <gpu name="{card}" slot="{~small}"/>
    gpu_name, {card}
    torch.cuda.get_device_name() = {card}
    node {host} gres=gpu:{card}:{~small}""")
_NO_CODE = lines("""
    No error code (is shown|appears|was given).
    There is no code.
    Nothing is (printed|logged).
    The log is empty.
    We do not see an error code.
    It does not show any code.
    No message, no code.
    I have no error code for you.
    Without any error message.
    The log shows nothing special.
    An error number is not displayed.
    No fault id was logged.""")
_NO_GPU = lines("""
    I do not know which card it is.
    The card model is unknown.
    No GPU is involved.
    I cannot tell the type of the card.
    We do not know the GPU.
    The hardware type does not matter here.
    It is not about a certain card.
    Sorry, the card type is not known to me.
    Any kind of card, it seems.
    I have no idea what GPU is inside.
    The model of the GPU is not given.""")
_OPENING = lines("""
    Hello,
    (Hi|Hello) (team|there|all),
    Dear (support|team|helpdesk),
    Good (morning|evening|afternoon),
    Hey (folks|team),
    To whom it may concern,
    Hello again,
    Quick one:
    Sorry to bother you.
    Thanks for the fast answer last time.
    We have a problem with the {product}.
    I am writing about the {product}.
    Another day, another issue.
    Report from {company}:
    Note from the night shift:
    This is {given} from {company}.
    My name is {person} from {company}.
    We use the {product} in {region}.
    As discussed on the phone,
    Update from our side:
    Question from {company}:
    {given} here.
    {company} speaking.
    New ticket from {company}.
    Could you help us with the {product}?
    Greetings from {company}.
    Dear colleagues,
    Hi, {given} from the {product} team.
    Ticket on behalf of {person}.
    Here comes a new one:
    Guess what.
    It is me again, {given}.
    Help needed with the {product}.
    Good day to you,
    Writing for {company}.
    Following up on our call of {~date}.""")
_CLOSING = lines("""
    Thanks.
    Thank you (in advance|very much|).
    Many thanks, {given}
    (Best|Kind|Warm) regards, {person}
    Kind regards
    Cheers, {given}
    Regards, {person}, {company}
    You can reach me at {email}.
    Call me at {~phone} if needed.
    Looking forward to your reply.
    Let me know if you need more.
    I attach the output.
    Sent from my phone
    {person}
    Yours, {given} ({company})
    Have a good day.
    {given} / {company}
    Sincerely, {person}
    Best, {given}
    Thx
    Greetings, {given}
    Mail: {email}
    -- {person}, {company}
    My number is {~phone}.
    We appreciate your help.
    Over to you.
    Bye, {given}
    {company} operations
    That is all, thanks.
    Signed {person}""")
_DISTRACTOR = lines("""
    We run version {~version}.
    The run number is {~job_id}.
    Our (reference|ticket) is {~ticket_id}.
    It (started|began) on {~date} at {~clock}.
    The address (of the node |)is {~ip}.
    The script is in {~path}.
    It took {~number} seconds.
    The node has {~small} cores.
    The region is {region}.
    My colleague {~given} saw it first.
    We tried it {~small} times.
    It worked last week.
    Nothing has changed on our side.
    We already read the manual.
    The other nodes are fine.
    The cluster is called {cluster}.
    {~host} is not affected.
    The same run was fine on {~host}.
    Kernel {~version}, Python 3.{~small}.
    Container image {~version}.
    Ubuntu (22.04|24.04), host {host}.
    Node: {host}
    Host is {host}.
    User {username} saw it.
    The rack is number {~small}.
    See also {~ticket_id}.
    Seen at {~clock}.
    Config attached ({~path}).
    The batch size was {~small}.
    Build {~number} of the {product}.
    The learning rate is 0.{~small}.
    First seen on {~date}.
    Uptime is {~small} days.
    There are {~small} nodes in {cluster}.
    It runs PyTorch {~version}.
    We updated to {~version} on {~date}.""")
_SUBJECT = lines("""
    Subject: (help|question|ticket|problem) ({product})
    Subject: {product}
    Subject: {host}
    Subject: (issue|trouble) on {host}
    Subject: request from {company}
    Subject: {company} / {product}
    Subject: [{ticket_id}] {product}
    Re: {ticket_id}
    Re: {product}
    Fwd: {host}
    From: {email}
    From: {person} <{email}>
    [{product}] {host}
    ## {product} on {host}
    **{product}**
    #{cluster}
    [forum] {given} asks:
    @support
    @here {host}
    {given} {~clock}:
    <{username}>
    {username} [{~clock}]
    Posted by {username} on {~date}
    Ticket {ticket_id}
    Customer: {company}""")
_FORM = lines("""
    Problem: {F1} / GPU: {F2} / Error: {F3} / Impact: {F4} / Wish: {F5}
    What happens: {F1} | Card: {F2} | Code: {F3} | How bad: {F4} | Please do: {F5}
    1) {F1} 2) GPU {F2} 3) error {F3} 4) {F4} 5) {F5}
    Description: {F1} Hardware: {F2} Error code: {F3} Urgency: {F4} Request: {F5}
    * {F1} * device: {F2} * err: {F3} * {F4} * {F5}
    Error: {F3} - GPU: {F2} - {F1} - {F4} - {F5}
    GPU={F2}; ERR={F3}; {F1} {F4} {F5}
    Wish: {F5} Impact: {F4} Problem: {F1} Card: {F2} Error: {F3}
    Summary: {F1} Severity: {F4} What we want: {F5} Error code: {F3} GPU model: {F2}
    [gpu] {F2} [error] {F3} [text] {F1} {F4} {F5}
    Card / {F2} / code / {F3} / {F1} {F5} {F4}
    Q1 What is wrong? {F1} Q2 Which GPU? {F2} Q3 Which error? {F3} Q4 Impact? {F4} Q5 What do you want? {F5}
    error code: {F3}, gpu: {F2}, note: {F1} {F5} {F4}
    Affected GPU: {F2} Error shown: {F3} Details: {F1} {F4} {F5}""")

BANKS = Banks(
    divided={
        "MENTION_CODE": _CODE,
        "MENTION_GPU": _GPU,
        "MENTION_BOTH": _BOTH,
        "LOG_BOTH": _LOG_BOTH,
        "LOG_CODE": _LOG_CODE,
        "LOG_GPU": _LOG_GPU,
        "NO_CODE": _NO_CODE,
        "NO_GPU": _NO_GPU,
        "OPENING": _OPENING,
        "CLOSING": _CLOSING,
        "DISTRACTOR": _DISTRACTOR,
        "SUBJECT": _SUBJECT,
        "FORM": _FORM,
    }
)
