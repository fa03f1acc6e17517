"""Phrase banks of the plain-text generator: pre-parsed templates whose slots name entities or other banks.

Slots: `{code}` is an entity that stays the same for the whole document (`{code2}` is a second one);
`{~number}` is a new value each time; `{SYMPTOM}` picks from a bank.
"""

from __future__ import annotations


def _lines(block: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in block.strip().splitlines() if line.strip())


def _bars(block: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in block.split("|"))


BANKS: dict[str, tuple[str, ...]] = {
    "PART": _bars("""
        driver | kernel module | firmware | GPU memory | frame buffer | NVLink bridge | PCIe slot | fan tray
        | power supply | cooling loop | network card | InfiniBand port | leaf switch | storage mount |
        file system | scheduler | container | pod | login service | token cache | billing meter |
        invoice run | model server | request queue | tokenizer | data loader | checkpoint writer |
        collective | tensor core | page table | license daemon | DNS entry | certificate"""),
    "SYMPTOM": _lines("""
        the driver does not load after the update to {~version}
        nvidia-smi hangs and never prints anything
        the kernel module refuses to start
        the GPU has fallen off the bus
        training stops with an out of memory error after {~number} steps
        memory usage climbs to {~number} MiB and then the process dies
        a CUDA kernel reports an illegal memory access
        uncorrectable ECC errors are counted on the card
        the all-reduce never returns and the ranks time out
        NCCL reports an unhandled system error on rank {~small}
        the collective stalls once more than {~small} nodes take part
        packets are dropped on the InfiniBand port
        the link flaps every {~small} minutes
        throughput over the network falls to {~number} MB/s
        the shared file system is read only
        checkpoints take {~number} seconds to write
        the volume is full although the quota says {~number} GB are free
        jobs stay pending with reason Resources
        the scheduler kills the job after {~small} minutes
        pods are evicted and never come back
        the image cannot be pulled from the registry
        the invoice shows {~number} hours that we did not use
        we were charged twice for the same reservation
        the credit has not arrived on our account
        nobody can log in since the password change
        the second factor is rejected
        the SSH key is not accepted on the login node
        the role of the account lacks access to the project
        the card reaches {~small} degrees and throttles
        the fans run at full speed all the time
        the temperature sensor reports nonsense
        the power draw jumps to {~number} W and the node reboots
        one power supply has failed
        the inference server returns status {~small} for every request
        the endpoint answers after {~number} ms instead of {~number} ms
        the model does not load into the server
        requests time out under load
        the first token takes {~number} seconds
        the batcher stops accepting requests
        the tokenizer of the new model produces garbage
        the notebook kernel restarts again and again
        the dashboard shows no data for {host2}
        the metrics exporter has stopped
        the quota of {~small} GPUs is too small for us
        the health check fails on {host2}
        the certificate of the gateway has expired
        the display stays black
        the clock of the node runs {~small} minutes late
        the upload breaks off at {~small} percent
        the loss becomes NaN after {~number} iterations
        the batch size had to be halved
        half of the cards are missing from the list
        the container sees no device
        the peer-to-peer copy is slow
        the disk reports bad sectors"""),
    "URGENCY": _lines("""
        Production is down.
        Our production service is completely down and customers notice.
        This blocks the whole team.
        We are blocked until this works again.
        This is urgent, please treat it as critical.
        Everything has stopped; we lose money every minute.
        It is a total outage on our side.
        All {~small} nodes are affected.
        Only one user is affected.
        It is annoying but we can work around it.
        There is a workaround, so no panic.
        This is minor.
        It is cosmetic, really.
        Whenever you get time is fine.
        No hurry at all.
        Low priority from our side.
        The deadline is {~date}, so it matters to us.
        Performance is degraded but the service still runs.
        It happens only sometimes, about {~small} times a day.
        Half of our capacity is gone.
        We can wait until next week.
        Please look at it today.
        The demo is tomorrow morning.
        High priority, a release depends on it.
        Not urgent, just a question.
        It is not critical, it just looks odd.
        Paying customers cannot work.
        Several teams are waiting for this."""),
    "REQUEST": _lines("""
        Please restart the node.
        Could you reboot the machine for us?
        Can you restart the service, please?
        Please replace the card.
        We would like a replacement under warranty.
        Could somebody swap the faulty board?
        We ask for a refund of the hours lost.
        Please credit our account.
        Please correct the invoice.
        Could you raise our quota to {~small} GPUs?
        We need more quota.
        Please increase the limit.
        Please reset the password of {username}.
        Could you unlock the account?
        Please grant access to {username}.
        Can you explain what this means?
        We would like to understand the cause.
        Could you tell us what is going on?
        Please escalate this to an engineer.
        I want to speak to somebody senior.
        Please investigate.
        Could you have a look at the logs?
        Please roll back to version {~version}.
        Please upgrade the driver to {~version}.
        Could you move the job to another node?
        Please drain the node and run the diagnostics.
        Please send somebody to check the cables.
        Tell us how to configure it, please.
        Please cancel the reservation.
        Please restore the files from the backup.
        What should we do next?
        Please close the case if nothing is left to do."""),
    "OPENING": _lines("""
        Hello,
        Hi team,
        Hi there,
        Dear support,
        Good morning,
        Good evening,
        Hey folks,
        To whom it may concern,
        Hello again,
        Quick one:
        Sorry to bother you.
        Thanks for the fast answer yesterday.
        We have a problem with the {product}.
        I am writing about the {product}.
        Since {~date} we see trouble on the {product}.
        Since this morning something is wrong with {host}.
        Another day, another issue.
        Following up on {~ticket_id}.
        Report from {company}:
        Note from the night shift:
        This is {given} from {company}.
        My name is {person} and I run the {product} at {company}.
        We use the {product} in {~region}.
        As discussed on the phone,
        Update from our side:"""),
    "CLOSING": _lines("""
        Thanks.
        Thank you in advance.
        Many thanks, {given}
        Best regards, {person}
        Kind regards
        Cheers, {given}
        Regards, {person}, {company}
        You can reach me at {email}.
        Call me at {~phone} if needed.
        Looking forward to your reply.
        Let me know if you need more.
        The logs are under {~path}.
        I attach the output.
        Sent from my phone
        {person}
        Yours, {given} ({company})
        Have a good day.
        We will keep the node as it is until you answer."""),
    "MENTION_CODE": _lines("""
        The code is {code}.
        It shows {code}.
        The error code is {code}.
        We get {code} each time.
        The console prints {code} and stops.
        It fails with {code}.
        The last line in the log says {code}.
        What we see is {code}, nothing else.
        Error {code} comes up.
        The screen reads "{code}".
        The log has {code} in it.
        There was a fault, {code}, on the {PART}.
        {code} is what the {PART} reports.
        The {PART} gives up with {code}.
        The monitoring raised {code} at {~clock}.
        It ends in [{code}].
        Fault ({code}) on {host}.
        At {~clock} the {PART} wrote {code}.
        I noted the number {code}.
        The message was: {code}
        According to the tool this is {code}.
        The event viewer lists {code}, again and again.
        err={code}
        All I have is {code}."""),
    "MENTION_GPU": _lines("""
        The card is a {gpu}.
        We run on {gpu}.
        The node has {~small} {gpu} cards.
        It is an NVIDIA {gpu}.
        All machines carry a {gpu}.
        This is on a {gpu} node.
        GPU: {gpu}
        The job was sent to the {gpu} partition.
        The affected board is the {gpu} in slot {~small}.
        Hardware is {gpu}, host {host}.
        We rent {~small}x {gpu}.
        On the {gpu} everything is slow.
        The {gpu} worked well until {~date}.
        Same on every {gpu} that we tried.
        Our {gpu} does it, the others do not."""),
    "MENTION_BOTH": _lines("""
        The {gpu} on {host} reports {code}.
        {code} appears on the {gpu}.
        Our {gpu} stopped with {code}.
        On {host} ({gpu}) we see {code}.
        The {gpu} card threw {code} at {~clock}.
        With the {gpu} we get {code}, with version {~version} too.
        Node {host}, {gpu}, error {code}.
        {host}: {gpu} failed, code {code}.
        After {~number} s the {gpu} shows {code}.
        Driver {~version} on a {gpu} gives {code}."""),
    "DISTRACTOR": _lines("""
        The driver version is {~version}.
        We run version {~version} of the {product}.
        The job number is {~job_id}.
        Our reference is {~ticket_id}.
        It started on {~date} at {~clock}.
        The address of the node is {~ip}.
        The script is in {~path}.
        About {~number} requests were affected.
        It took {~number} seconds.
        The node has {~small} cores and {~number} GB of memory.
        The region is {~region}.
        My colleague {~given} saw it first.
        We tried it {~small} times.
        A restart did not help.
        It worked last week.
        Nothing has changed on our side.
        We already read the manual.
        The other nodes are fine.
        The cluster is called {~cluster}.
        {~host} is not affected.
        The same job ran on {~host} without trouble.
        Temperature was {~small} degrees.
        The queue holds {~small} jobs."""),
    "FILLER": _lines("""
        The {PART} and the {PART} were checked first.
        It turned out that {SYMPTOM}.
        In this case {SYMPTOM}.
        When the {product} is busy, {SYMPTOM}.
        Users say that {SYMPTOM}.
        After the maintenance of {~date}, {SYMPTOM}.
        We noticed that {SYMPTOM}.
        It looks as if {SYMPTOM}.
        Unfortunately {SYMPTOM}.
        As far as we can see {SYMPTOM}, and {SYMPTOM}.
        First {SYMPTOM}, then {SYMPTOM}.
        Whenever the {PART} is under load, {SYMPTOM}.
        If {SYMPTOM}, check the {PART}.
        Normally this means that the {PART} must be replaced.
        The {PART} was restarted {~small} times without success.
        A faulty {PART} is the most likely cause.
        Engineers looked at the {PART} and found nothing.
        The {PART} depends on the {PART}.
        Before you restart the {PART}, save your work."""),
    "EVERYDAY": _lines("""
        The bakery on the corner opens at {~clock} and sells bread, rolls and cake.
        On {~date} it rained all day, so we stayed inside and played cards.
        My neighbour {~given} grows tomatoes, beans and herbs on the balcony.
        The train to the coast takes {~small} minutes and stops in every village.
        A good soup needs onions, carrots, salt and patience.
        The library lends {~small} books at a time for {~small} days.
        {~given} and {~given} walked along the river until it was dark.
        The museum shows paintings from {~small} countries.
        He fixed the old bicycle with a spoon and some wire.
        The cat sleeps on the warm keyboard.
        She wrote a letter to her aunt and forgot to post it.
        The meeting was moved to {~clock}.
        Children are fast learners when the teacher is kind.
        The price of coffee rose by {~small} percent.
        A bridge of stone crosses the valley.
        The football match ended {~small} to {~small}.
        They planted a tree in front of the town hall.
        In winter the lake freezes and people skate on it.
        To boil an egg, put it into hot water for {~small} minutes.
        The recipe asks for {~small} grams of sugar and two lemons.
        The doctor told him to sleep more and worry less.
        The lawyer read the contract twice.
        A safe password is long and not used anywhere else.
        Lock the door before you leave the house.
        The police warned about fraud on the telephone.
        Never share your password or your card number with strangers.
        Chemicals must be stored in a closed cupboard.
        The software was released under an open licence.
        Weapons are not allowed in the building.
        The medicine must be taken with water.
        Cleaning products should never be mixed."""),
    "POLICY": _lines("""
        I can't help with that, but I can explain how to stay safe.
        That request was declined because it could harm other people.
        We do not share personal data of other customers.
        Breaking into an account is against the law.
        The assistant refused to write malware and offered a guide on backups instead.
        Stealing a password is a crime; changing your own password is not.
        It is fine to ask how an attack works in order to defend against it.
        Sorry, that is not allowed here.
        Our rules forbid mining coins on shared nodes.
        Bypassing the licence check is not permitted.
        They asked for a way around the quota and were told no.
        Killing a process on Linux is harmless and can be done with kill.
        The guard would not open the door without a badge.
        Phishing mails try to look like messages from your bank.
        A firewall blocks unwanted traffic.
        Disabling the safety limits of a power supply is dangerous.
        Security research needs the permission of the owner.
        The request to read another user's files was rejected.
        We cannot provide instructions for weapons.
        How do I kill a zombie process? Find its parent and end that one.
        How can I attack this problem? Start with the logs.
        Please ask the owner of the data first."""),
    "FACT": _lines("""
        {given} keeps the spare key of the {product} in room {~small}.
        The {product} of {company} moved to {~region} on {~date}.
        The limit for one job is {~small} hours.
        Maintenance of {host} starts at {~clock}.
        Code {code} means that the {PART} must be checked.
        {code} is raised when {SYMPTOM}.
        A {gpu} draws up to {~number} W under full load.
        The {gpu} has {~small} GB of memory.
        Backups are kept for {~small} days in {~path}.
        To reset the {PART}, call {~phone}.
        Version {~version} of the {product} was released on {~date}.
        {person} is responsible for the {PART}.
        Refunds are paid within {~small} days.
        A quota request must name the project and {~small} reasons.
        The {PART} listens on port {~port}.
        Logs of the {PART} are written to {~path}.
        {host} belongs to the cluster {~cluster}.
        The default timeout of the {PART} is {~number} seconds.
        The {product} accepts at most {~small} requests per second.
        Accounts are locked after {~small} failed attempts.
        The {PART} is restarted every day at {~clock}.
        Reservations can be cancelled up to {~small} hours before the start.
        If {SYMPTOM}, drain the node and run the diagnostics.
        Every {gpu} node has {~small} network ports."""),
    "LEVEL": _bars("INFO | WARN | ERROR | DEBUG | FATAL | notice | warning | error | crit"),
    "LOGMSG": _lines("""
        starting {PART}
        {PART} ready after {~number} ms
        connected to {~ip}
        connection to {~host} lost
        retry {~small} of {~small}
        heartbeat from {~host} ok
        job {~job_id} accepted
        job {~job_id} finished with exit code {~small}
        wrote {~path}
        read {~number} records from {~path}
        temperature {~small} C, power {~number} W
        memory {~number} MiB of {~number} MiB in use
        queue depth {~small}
        version {~version} loaded
        {SYMPTOM}
        user {~username} logged in from {~ip}
        checkpoint step={~number} saved
        step {~number} loss {~number} lr {~number}
        batch of {~small} requests done
        cache miss ratio {~number}
        fan {~small} at {~number} rpm"""),
    "LOGCODE": _lines("""
        {PART} failed: {code}
        {code}
        error {code} in {PART}
        {code}: {SYMPTOM}
        fault code={code} gpu="{gpu}"
        device {gpu} reported {code}
        [{code}] {SYMPTOM}
        caught exception {code} on {host}
        status={code} device={gpu}
        {gpu}: {code} ({SYMPTOM})
        abort, reason {code}"""),
    "THANKS": _lines("""
        Thanks, that helps.
        Understood.
        All right.
        Great.
        Good, thank you.
        I see.
        Got it.
        Perfect.
        That is correct.
        Yes, exactly.
        Fine with me.
        Okay, let me check."""),
    "DE": _lines("""
        Guten Tag, unser Knoten {host} meldet {code}.
        Seit heute Morgen zeigt die Karte {gpu} den Fehler {code}.
        Die Anmeldung von {username} funktioniert nicht mehr.
        Bitte starten Sie den Knoten {host} neu.
        Die Rechnung von {company} ist leider falsch.
        Der Treiber {~version} lässt sich nicht laden.
        Das Training bricht nach {~small} Minuten ab.
        Es ist nicht dringend, danke für die Hilfe.
        Die Produktion steht still, bitte schnell antworten.
        Wir brauchen mehr Speicher auf der {gpu}.
        Können Sie erklären, was {code} bedeutet?
        Mit freundlichen Grüßen, {person}
        Der Lüfter ist sehr laut und die Temperatur steigt auf {~small} Grad.
        Im Protokoll steht nur {code}."""),
    "FR": _lines("""
        Bonjour, le serveur {host} affiche {code}.
        Depuis ce matin, la carte {gpu} renvoie l'erreur {code}.
        L'utilisateur {username} ne peut plus se connecter.
        Merci de redémarrer le nœud {host}.
        La facture de {company} n'est pas correcte.
        Le pilote {~version} ne se charge pas.
        L'entraînement s'arrête après {~small} minutes.
        Ce n'est pas urgent, merci d'avance.
        La production est arrêtée, répondez vite s'il vous plaît.
        Pouvez-vous expliquer ce que veut dire {code} ?
        Cordialement, {person}
        Le réseau est très lent depuis la mise à jour.
        Nous avons besoin de plus de mémoire sur la {gpu}."""),
    "ES": _lines("""
        Hola, el nodo {host} muestra {code}.
        Desde esta mañana la tarjeta {gpu} da el error {code}.
        El usuario {username} no puede entrar.
        Por favor, reinicien el nodo {host}.
        La factura de {company} está mal.
        El controlador {~version} no se carga.
        El entrenamiento se detiene después de {~small} minutos.
        No es urgente, gracias por la ayuda.
        La producción está parada, respondan pronto.
        ¿Pueden explicar qué significa {code}?
        Un saludo, {person}
        La red está muy lenta desde la actualización.
        Necesitamos más memoria en la {gpu}."""),
    "DE_BACK": _lines("""
        Der Code lautet {code}.
        Kurz gesagt: {code} auf {host}.
        Gemeldet wurde {code} für die {gpu}.
        Fehlercode: {code}, Karte: {gpu}
        Absender: {person}, Knoten {host}, Code {code}"""),
    "FR_BACK": _lines("""
        Le code est {code}.
        En bref : {code} sur {host}.
        Erreur signalée : {code} ({gpu})
        Code d'erreur : {code}, carte : {gpu}
        De la part de {person}, machine {host}, code {code}"""),
    "ES_BACK": _lines("""
        El código es {code}.
        En resumen: {code} en {host}.
        Error comunicado: {code} ({gpu})
        Código de error: {code}, tarjeta: {gpu}
        De parte de {person}, equipo {host}, código {code}"""),
    # Ways to say a value again after it was given once.
    "BACK_CODE": _lines("""
        The code in this report was {code}.
        code={code}
        code "{code}"
        code: {code}
        Reported code: {code}
        So the code is {code}.
        Error code -> {code}
        [{code}]
        ({code})
        Extracted: {code}
        The text contains the code {code}.
        Look up {code} in the manual.
        grep {code} {~path}
        Please search for "{code}".
        To sum up, {code} was seen.
        fault_id={code}
        <fault>{code}</fault>
        err: '{code}'
        Q: Which code? A: {code}
        The only code named above is {code}.
        `{code}` is the code to look for.
        Copy of the code: {code}
        {code} again, then.
        The reader should remember {code}."""),
    "BACK_GPU": _lines("""
        The card in question is the {gpu}.
        gpu={gpu}
        device "{gpu}"
        card: {gpu}
        It concerns a {gpu}.
        Hardware named: {gpu}
        Q: Which card? A: {gpu}
        <device>{gpu}</device>
        model='{gpu}'
        So we talk about the {gpu}.
        The board mentioned above is a {gpu}.
        {gpu} it is."""),
    "BACK_BOTH": _lines("""
        {gpu} with code {code}.
        In short, the {gpu} showed {code}.
        gpu={gpu} code={code}
        code={code}, gpu={gpu}
        "{gpu}", "{code}"
        {code} / {gpu}
        {code} on {gpu}
        Summary: {code} was reported for the {gpu}.
        card "{gpu}"; fault "{code}"
        The report names the {gpu} and {code}.
        Device {gpu} raised {code}."""),
    "BACK_HOST": _lines("""
        The host is {host}.
        host={host}
        node "{host}"
        It happened on {host}.
        ssh {host}
        Machine: {host}
        Q: Where? A: {host}
        <node>{host}</node>
        {host} is the machine to check."""),
    "BACK_WHO": _lines("""
        Reported by {person}.
        Contact: {person} ({company})
        The sender is {person} from {company}.
        from={person}; org={company}
        Customer: {company}
        Q: Who wrote this? A: {person}
        Answer to {person} at {company}."""),
    "NO_CODE": _lines("""
        No code was given.
        code=none
        code: null
        code: none
        Reported code: none
        There is no code in this report.
        The text names no code.
        Extracted: none
        Q: Which code? A: none given
        err: null
        fault_id=null
        code "none"
        No error code is mentioned."""),
    "NO_GPU": _lines("""
        No card was named.
        gpu=none
        card: null
        device: none
        The report does not say which card it is.
        Hardware named: none
        Q: Which card? A: not stated
        model=null
        The card is unknown."""),
    "INTRO_BACK": _lines("""
        In other words:
        Again:
        The facts:
        Short form:
        As a record:
        Notes:
        ---
        =>
        Taken from the text above:
        Structured:
        Key points:
        What we know:
        Facts
        Extract:
        Machine readable:
        Same in brief:"""),
}
