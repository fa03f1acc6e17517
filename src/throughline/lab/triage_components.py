"""Phrases for what is broken: nouns (vocabulary of all splits), predicates and whole clauses."""

from __future__ import annotations

from throughline.lab.grammar import Banks, bars, lines

COMPONENTS = ("driver", "memory", "network", "storage", "scheduler", "billing", "access", "thermal")

_NOUNS = {
    "driver": bars("""
        the driver | the (NVIDIA|graphics|GPU) driver | the kernel module | nvidia-smi
        | the CUDA runtime | the CUDA driver | the driver (package|stack|installer)
        | the nvidia module | the driver (update|upgrade) | the DKMS build of the driver
        | the persistence daemon of the driver | libcuda | the CUDA toolkit"""),
    "memory": bars("""
        the GPU memory | the frame buffer | device memory | the VRAM | the HBM
        | the memory allocator | the memory pool | the memory of the card | the memory bank | the CUDA memory
        | GPU RAM | the on-board memory"""),
    "network": bars("""
        the network | the InfiniBand (link|port|fabric) | the network (link|card|adapter)
        | the leaf switch | the NCCL all-reduce | the NCCL ring | the Ethernet port
        | the RDMA connection | the interconnect | the network between the nodes
        | the VPN tunnel | the 100G link | DNS on the node"""),
    "storage": bars("""
        the (shared |)file system | the storage (volume|mount|system) | the NFS mount
        | the scratch disk | the object store | the data volume | the disk | the NVMe drive
        | the bucket | the Lustre mount | the backup volume | the home directory
        | the disk array"""),
    "scheduler": bars("""
        the scheduler | Slurm | the job queue | the batch queue | the Kubernetes scheduler
        | the queue | our job | the job array | the partition | the pod
        | the reservation in the queue | sbatch | the gang scheduling"""),
    "billing": bars("""
        the invoice | the bill | our last invoice | the billing (portal|page|report)
        | the charge | the payment | the credit note | the monthly statement | the cost report
        | our credit balance | the VAT on the invoice | the subscription fee
        | the price on the bill"""),
    "access": bars("""
        the login | my account | single sign-on | the SSH key | the password reset
        | the second factor | my API token | the user role | the permission
        | the invitation link | the account of {username} | the login page | our service account"""),
    "thermal": bars("""
        the temperature | the fan | the cooling (loop|unit) | the GPU temperature
        | the heat sink | the card temperature | the fan controller | the temperature sensor
        | the hot spot reading | the airflow | the water cooling | the thermal sensor
        | the fan tray"""),
}

_PREDICATES = {
    "driver": lines("""
        does not load (any more|at boot|after the reboot)
        (refuses|fails) to (load|start|initialise)
        cannot be (installed|loaded|initialised)
        does not match the (kernel|library) version
        reports a version mismatch
        (hangs|freezes) and prints nothing
        says that no devices were found
        (crashes|aborts) at start
        is (missing|gone) after the (kernel|system) update
        complains about an unsupported version
        (stops|ends) with an initialisation error
        cannot talk to the device
        was (downgraded|replaced) by the package manager
        fails to compile for the new kernel
        is not signed and gets rejected by secure boot
        conflicts with the nouveau module
        shows unknown symbols in dmesg
        returns an API mismatch
        keeps being unloaded
        is too old for the toolkit"""),
    "memory": lines("""
        (is exhausted|runs out) (after|within) {~small} (steps|minutes)
        fills up until the process (dies|is killed)
        is (full|used up) although nothing runs
        leaks about {~number} MiB per hour
        shows (uncorrectable|double-bit) errors
        counts more and more bit errors
        is never freed after the process ends
        reports an illegal address
        is too small for the batch
        is fragmented and no large block can be allocated
        shows only half of its size
        has a bad page that is pending retirement
        jumps to {~number} MiB and stays there
        overflows with a batch size of {~small}
        gives corrupted values when read back
        fails the row remapping
        ends in out of memory
        is eaten by a zombie process
        cannot be allocated for the KV cache
        grows with every request"""),
    "network": lines("""
        (drops|loses) packets
        flaps every {~small} (minutes|seconds)
        is slow, only {~number} MB/s
        (times out|stalls) between two nodes
        never returns and the ranks (hang|wait)
        shows symbol errors
        has no light on one side
        comes up at a quarter of the speed
        has a latency of {~number} ms
        (disconnects|resets) after {~small} minutes
        cannot reach {~host}
        negotiates the wrong (speed|MTU)
        loses its route to {~ip}
        breaks as soon as more than {~small} ranks take part
        reports that the connection was refused
        shows retransmits on every transfer
        falls back to sockets
        loses the link to its peer
        is unreachable from the other rack
        does not resolve names"""),
    "storage": lines("""
        is (mounted |)read-only
        is full although the quota says otherwise
        (hangs|stalls) on every write
        gives (input/output|I/O) errors
        takes {~number} seconds to write a (checkpoint|file)
        lost (some|two) files
        cannot be mounted
        reports stale file handles
        shows bad sectors
        is out of inodes
        reads at only {~number} MB/s
        returns truncated files
        refuses to delete old checkpoints
        was unmounted without a word
        has no space left
        corrupts uploads above {~number} MB
        does not show the files written on {~host}
        lists the directory in {~small} seconds
        failed its integrity check
        does not restore yesterday's snapshot"""),
    "scheduler": lines("""
        (stays|remains) pending (for hours|with reason Resources|)
        is (killed|cancelled) after {~small} minutes in the queue
        never (starts|gets scheduled)
        ignores the priority of our jobs
        rejects the submission
        is stuck in the queue
        was preempted {~small} times
        keeps being requeued
        puts two jobs on the same GPU
        does not see the free nodes
        is evicted and never comes back
        starts the job without a GPU
        waits behind jobs of lower priority
        hits the wall-time limit too early
        has lost its job history
        stays in state completing
        reports an invalid job array
        drains the nodes for no reason
        does not honour the node selector
        schedules nothing on {~host}"""),
    "billing": lines("""
        shows {~number} hours that we did not use
        (lists|contains) the same reservation twice
        is (wrong|too high) by {~number} euros
        was charged twice
        has the wrong (address|company name|tax number)
        does not show our discount
        has not arrived
        was rejected by the bank
        uses last year's price list
        counts idle time as usage
        is in the wrong currency
        does not match the usage report
        bills a project that was closed on {~date}
        shows a negative amount
        is missing the purchase order number
        includes a card that we never rented
        was not booked
        still shows the old plan
        went to the wrong department
        adds a fee that nobody announced"""),
    "access": lines("""
        is (rejected|refused) (at the login node|since the password change|)
        (fails|stops) with permission denied
        is locked
        does not accept the password
        asks for a code that never arrives
        has expired
        was disabled by mistake
        lacks the rights for the project
        sends us back to the sign-in page
        answers with 403
        is not linked to our organisation
        does not work for the new colleague
        was removed from the group
        shows the wrong tenant after signing in
        cannot be renewed
        does not let {username} in
        is not accepted by the bastion
        forgets the role after each sign-in
        loops between sign-in and consent
        is unknown to the identity provider"""),
    "thermal": lines("""
        (rises|climbs) to {~small} degrees
        is too (hot|high) and the clock is throttled
        runs at full speed all day
        does not spin any more
        reports {~small} C while idle
        is above the limit and the card slows down
        shows nonsense values in degrees
        makes a grinding noise
        leaks coolant
        is clogged with dust
        triggers a thermal slowdown
        overheats after {~small} minutes
        stands still while the card burns
        is {~small} degrees above the other cards
        causes a thermal shutdown
        never goes below {~small} C
        swings between {~small} and {~small} degrees
        is not cooling enough
        went up after the rack was closed
        raises an overheating alarm"""),
}

_CLAUSES = {
    "driver": lines("""
        no CUDA-capable device is detected since the driver was (updated|upgraded)
        after the kernel update there is no nvidia module any more
        modprobe nvidia fails and the driver log is empty
        installing driver {~version} ends with a broken package
        nvidia-smi has failed because it could not communicate with the driver
        PyTorch says that the driver is too old for its CUDA version
        the container finds no driver library
        rolling back the driver to {~version} did not bring CUDA back
        dmesg shows that the nvidia kernel module unloads
        two versions of the NVIDIA driver are installed at the same time
        the GPU has no kernel driver in use according to lspci"""),
    "memory": lines("""
        training dies with CUDA out of memory
        we get CUDA error: out of memory although the VRAM looks free
        the run needs {~number} MiB more GPU memory than it finds
        uncorrectable ECC errors are counted in device memory
        a kernel performed an illegal memory access
        half of the VRAM is held by a dead process
        the weights do not fit into GPU memory any more
        GPU memory usage never drops after inference
        the card retires memory pages every day
        single-bit ECC errors in the HBM keep growing
        the allocator cannot find {~number} MiB of free device memory"""),
    "network": lines("""
        packets get lost between the racks
        the NCCL test hangs over InfiniBand
        ping to {~host} loses {~small} percent of the packets
        bandwidth between the nodes fell to {~number} MB/s
        ranks time out because the fabric drops the link
        the switch port turns red and the link is gone
        NCCL hangs over the network while one node alone works
        we cannot reach {~ip} over the network from the cluster
        the InfiniBand cable shows link errors
        RDMA falls back to TCP over the slow Ethernet
        the firewall cuts the network connection after {~small} minutes"""),
    "storage": lines("""
        writing a checkpoint fails with no space left on device
        files on the NFS mount turn up empty
        reading files from the object store takes {~number} ms each
        the disk throws I/O errors when the checkpoint is saved
        we cannot mount the volume on {~host}
        df shows that the scratch disk is full
        our files vanished from the bucket
        the file system went read-only while saving
        loading files from the disk takes {~small} times longer
        the snapshot of the storage volume cannot be restored
        deleting files on the file system hangs forever"""),
    "scheduler": lines("""
        jobs stay pending although nodes are idle
        squeue shows our job as pending since {~date}
        the job was preempted although it had high queue priority
        pods stay pending because no node matches
        our reservation in Slurm is ignored and the job waits
        sbatch rejects every submission to the partition
        the queue is empty but nothing gets scheduled
        the job {~job_id} is requeued again and again
        Slurm kills the queued job at a time limit that we did not set
        the scheduler places all parts of the job on one node
        fair-share puts our jobs at the end of the queue"""),
    "billing": lines("""
        we were charged twice for the same reservation
        the invoice lists {~small} GPUs but we rented fewer
        our credit card was debited although the subscription had ended
        the bill of {~date} contains hours of a stopped instance
        the promised discount is not on the invoice
        VAT was added to the bill although we are exempt
        the amount on the invoice differs from the cost report
        a payment that we made is not shown in the billing portal
        the bill has an item that was cancelled
        the invoice is addressed to the wrong company
        the invoice bills {~number} hours for one day"""),
    "access": lines("""
        {username} cannot log in since the password was changed
        signing in to the console fails for {username}
        SSH says permission denied for the public key
        the login prompt of the second factor never comes
        my account was locked after a wrong password
        {username} has no permission to open the project
        single sign-on sends users back to the login page
        the API token is rejected as unauthorised
        new members cannot accept the invitation to the account
        the role of {username} vanished and the console answers forbidden
        every login ends with invalid credentials"""),
    "thermal": lines("""
        the card throttles because it gets too hot
        it reaches {~small} degrees and clocks down
        the clock is low because of a thermal slowdown
        one fan has stopped and the heat builds up
        the card overheats whenever the cooling is busy
        the rack is so hot that the cards throttle at {~small} C
        coolant drips from the hose and the temperature rises
        hot air comes back from the next row and the fans scream
        the sensor says {~small} degrees and the fan is at its limit
        the cooling fails and the node shuts down from heat
        the fans are loud and the card still overheats"""),
}

# Where and when, without a hint at severity.
_WRAP = lines("""
    {S}.
    {S} on {host}.
    {S}{WHEN}.
    (We see|We notice|I see|It seems|I noticed) that {S}.
    (It looks like|Looks as if|As far as we can tell,) {S}.
    (Since|After) (the maintenance|the weekend|the last deployment|{~date}), {S}.
    On {host}, {S}.
    On (our|the) {product} {S}.
    (Problem|Issue|Observation): {S}.
    What happens: {S}{WHEN}.
    {S} - {host}{WHEN}.
    (My|One) colleague {~given} found that {S}.
    Our monitoring (says|shows|found) that {S}.
    In {region} {S}.
    {S}, (again|once more|as before).
    Unfortunately {S}{WHEN}.
    To be precise, {S}.
    (In short|Briefly|Basically): {S}.
    The situation is this: {S}.
    With our {product}, {S}{WHEN}.
    While we ran the {product}, we found that {S}.
    (I write|I am writing|We write) because {S}.
    (Today|Yesterday|This morning|Last night) it turned out that {S}.
    (Apparently|Obviously|Somehow) {S} on the {product}.
    The team of {company} reports that {S}.
    {S} (here|at our site|on our side).
    Node {host}: {S}.
    (Same thing|The same) on {host} and {~host}: {S}.
    Not sure why, but {S}.
    At {~clock} we found that {S}.
    Here is what we know: {S}{WHEN}.
    Story so far: {S}.
    Just found out that {S}.
    The trouble is that {S}{WHEN}.
    First line support saw that {S}.
    Could be a known one: {S}.
    According to our operator {~given}, {S}.""")
_WHEN = lines("""
    since {~date}
    since this morning
    since yesterday
    after the last restart
    under load
    every night at {~clock}
    when the {product} runs
    after about {~small} minutes
    as of {~clock}
    since version {~version}
    in cluster {cluster}
    for {~small} days now
    right after boot
    when run {~job_id} starts
    from {~clock} on
    ever since we moved to {region}""")

BANKS = Banks(
    divided={
        **{f"PRED_{name.upper()}": v for name, v in _PREDICATES.items()},
        **{f"CLAUSE_{name.upper()}": v for name, v in _CLAUSES.items()},
        "SYMPTOM_WRAP": _WRAP,
    },
    shared={
        **{f"NOUN_{name.upper()}": v for name, v in _NOUNS.items()},
        "WHEN": ("", *(f" {line}" for line in _WHEN)),
    },
)
