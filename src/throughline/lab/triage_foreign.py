"""German, French and Spanish phrases for tickets, in the same banks as the English ones."""

from __future__ import annotations

from throughline.lab.grammar import Banks, bars, lines

LANGUAGES = ("DE", "FR", "ES")

_SUBJECTS = {
    "DE": {
        "driver": bars("der (NVIDIA-|)Treiber | das Kernelmodul des Treibers | der CUDA-Treiber"),
        "memory": bars("der GPU-Speicher | der Grafikspeicher | der VRAM"),
        "network": bars("das Netzwerk | die Netzwerkkarte | die InfiniBand-Verbindung"),
        "storage": bars("das Dateisystem | die Festplatte | das Speichervolume"),
        "scheduler": bars("der Scheduler | die Job-Warteschlange | unser Job in Slurm"),
        "billing": bars("die Rechnung | die Abrechnung | unsere letzte Rechnung"),
        "access": bars("die Anmeldung | mein Konto | der SSH-Zugang"),
        "thermal": bars("der Lüfter | die Kühlung | die Temperatur der Karte"),
    },
    "FR": {
        "driver": bars("le pilote (NVIDIA|) | le module noyau du pilote | le pilote CUDA"),
        "memory": bars("la mémoire GPU | la mémoire de la carte | la VRAM"),
        "network": bars("le réseau | la carte réseau | le lien InfiniBand"),
        "storage": bars("le système de fichiers | le disque | le volume de stockage"),
        "scheduler": bars("le scheduler | la file d'attente des jobs | notre job dans Slurm"),
        "billing": bars("la facture | la facturation | notre dernière facture"),
        "access": bars("la connexion au compte | mon compte | l'accès SSH"),
        "thermal": bars("le ventilateur | le refroidissement | la température de la carte"),
    },
    "ES": {
        "driver": bars("el controlador (NVIDIA|) | el módulo del controlador | el controlador CUDA"),
        "memory": bars("la memoria de la GPU | la memoria de la tarjeta | la VRAM"),
        "network": bars("la red | la tarjeta de red | el enlace InfiniBand"),
        "storage": bars("el sistema de archivos | el disco | el volumen de almacenamiento"),
        "scheduler": bars("el scheduler | la cola de trabajos | nuestro trabajo en Slurm"),
        "billing": bars("la factura | la facturación | nuestra última factura"),
        "access": bars("el inicio de sesión | mi cuenta | el acceso SSH"),
        "thermal": bars("el ventilador | la refrigeración | la temperatura de la tarjeta"),
    },
}
_PREDICATES = {
    "DE": lines("""
        macht Probleme
        verhält sich seltsam
        ist seit {~date} nicht in Ordnung
        stimmt nicht
        war gestern noch in Ordnung
        bereitet uns Sorgen
        ist seit dem Update fehlerhaft
        läuft nicht richtig
        ist wieder auffällig
        tut nicht, was es soll
        spinnt auf {host}
        ist nicht so, wie es sein soll"""),
    "FR": lines("""
        pose problème
        se comporte bizarrement
        ne va pas depuis le {~date}
        n'est pas correct
        allait bien hier encore
        nous inquiète
        est en défaut depuis la mise à jour
        ne marche pas bien
        a encore un souci
        ne fait pas ce qu'il faut
        déraille sur {host}
        n'est pas comme prévu"""),
    "ES": lines("""
        da problemas
        se comporta de forma rara
        no va bien desde el {~date}
        no es correcto
        ayer todavía iba bien
        nos preocupa
        falla desde la actualización
        no funciona bien
        tiene otra vez un fallo
        no hace lo que debe
        se vuelve loco en {host}
        no está como debe"""),
}
_WRAP = {
    "DE": lines("""
        Guten Tag, {S}.
        Hallo, {S}.
        Wir sehen, dass etwas nicht stimmt: {S}.
        Auf {host}: {S}.
        Leider {S}.
        Liebes Team, {S}.
        Kurz gesagt: {S}.
        Moin, {S}."""),
    "FR": lines("""
        Bonjour, {S}.
        Bonjour à tous, {S}.
        Nous voyons un souci : {S}.
        Sur {host} : {S}.
        Malheureusement {S}.
        Chère équipe, {S}.
        En bref : {S}.
        Salut, {S}."""),
    "ES": lines("""
        Hola, {S}.
        Buenos días, {S}.
        Vemos un problema: {S}.
        En {host}: {S}.
        Por desgracia {S}.
        Estimado equipo, {S}.
        En resumen: {S}.
        Buenas, {S}."""),
}
_SEVERITY = {
    "DE": {
        "critical": lines("""
            Die Produktion steht (komplett |)still.
            (Totalausfall|Kompletter Ausfall): alle Kunden sind betroffen.
            Das ist ein Notfall, die Produktion ist ausgefallen.
            Kritisch: die ganze Produktion ist ausgefallen.
            Alle Kunden sind offline, ein Notfall."""),
        "high": lines("""
            Es ist dringend, (die Frist ist morgen|wir sind blockiert).
            Unser Team ist blockiert.
            Bitte schnell, die Frist ist heute.
            Dringend: das Team ist blockiert.
            Hohe Priorität, die Frist ist morgen."""),
        "medium": lines("""
            Es läuft noch, nur langsamer.
            Es gibt einen Umweg, aber er ist lästig.
            Mittlere Priorität, wir haben einen Umweg.
            Nur langsamer als sonst, ein Umweg existiert.
            Normale Priorität, es läuft langsamer."""),
        "low": lines("""
            Es ist nicht eilig.
            (Keine Eile|Das hat Zeit), nur eine Kleinigkeit.
            Niedrige Priorität, es eilt nicht.
            Nur eine Kleinigkeit, keine Eile.
            Das hat Zeit bis nächste Woche, keine Eile."""),
    },
    "FR": {
        "critical": lines("""
            La production est (complètement |)arrêtée.
            (Panne totale|Panne complète) : tous les clients sont touchés.
            C'est une urgence absolue, la production est en panne totale.
            Critique : toute la production est arrêtée.
            Tous les clients sont hors ligne, panne totale."""),
        "high": lines("""
            C'est urgent, (le délai est demain|nous sommes bloqués).
            Notre équipe est bloquée.
            Vite s'il vous plaît, le délai est aujourd'hui.
            Urgent : l'équipe est bloquée.
            Priorité haute, le délai est demain."""),
        "medium": lines("""
            Ça marche encore, mais plus lentement.
            Il y a un contournement, mais il est pénible.
            Priorité moyenne, nous avons un contournement.
            Seulement plus lent que d'habitude, avec un contournement.
            Priorité normale, c'est plus lent."""),
        "low": lines("""
            Ce n'est pas pressé.
            (Rien ne presse|Prenez votre temps), c'est un détail.
            Priorité basse, rien ne presse.
            Juste un détail, prenez votre temps.
            Cela peut attendre la semaine prochaine, rien ne presse."""),
    },
    "ES": {
        "critical": lines("""
            La producción está (completamente |)parada.
            (Caída total|Caída completa): todos los clientes afectados.
            Es una emergencia, la producción está caída.
            Crítico: toda la producción está parada.
            Todos los clientes sin servicio, caída total."""),
        "high": lines("""
            Es urgente, (el plazo es mañana|estamos bloqueados).
            Nuestro equipo está bloqueado.
            Rápido por favor, el plazo es hoy.
            Urgente: el equipo está bloqueado.
            Prioridad alta, el plazo es mañana."""),
        "medium": lines("""
            Todavía funciona, pero más lento.
            Hay un rodeo, pero es molesto.
            Prioridad media, tenemos un rodeo.
            Solo más lento de lo normal, con un rodeo.
            Prioridad normal, va más lento."""),
        "low": lines("""
            No hay prisa.
            (Sin prisa|Con calma), es un detalle.
            Prioridad baja, sin prisa.
            Solo un detalle, con calma.
            Puede esperar a la semana que viene, sin prisa."""),
    },
}
_WISH = {
    "DE": lines("""
        Bitte {V}.
        Können Sie (bitte |){V}?
        Würden Sie (bitte |){V}?
        Wir möchten, dass Sie {V}.
        Unser Wunsch: {V}.
        Jemand muss {V}.
        Sie sollten {V}.
        Könnte jemand {V}?
        Es wäre gut, wenn Sie {V}.
        Ich hoffe, dass Sie {V}."""),
    "FR": lines("""
        Merci de {V}.
        Pouvez-vous {V} ?
        Pourriez-vous {V} ?
        Nous vous demandons de {V}.
        Notre souhait : {V}.
        Il faut {V}, merci.
        Vous devriez {V}.
        Quelqu'un peut {V} ?
        Ce serait bien de {V}.
        Je vous prie de {V}."""),
    "ES": lines("""
        ¿Pueden {V}?
        ¿Podrían {V}, por favor?
        Les pedimos {V}.
        Quisiéramos {V}.
        Nuestro deseo: {V}.
        Hay que {V}, por favor.
        Deberían {V}.
        ¿Alguien puede {V}?
        Sería bueno {V}.
        Les ruego {V}."""),
}
_DO = {
    "DE": {
        "restart": bars("den (Server|Knoten) neu starten | {host} neu starten | einen Neustart machen"),
        "replace": bars("die Karte austauschen | die Karte ersetzen | die Karte gegen eine neue austauschen"),
        "investigate": bars("die Ursache untersuchen | das untersuchen | die Logs untersuchen"),
        "refund": bars("das Geld erstatten | uns {~number} Euro erstatten | die Kosten erstatten"),
        "grant_access": bars("{username} Zugriff geben | den Zugriff für {username} freischalten"),
        "explain": bars("das erklären | erklären, was das bedeutet | uns den Grund erklären"),
    },
    "FR": {
        "restart": bars("redémarrer (le serveur|le nœud) | redémarrer {host} | redémarrer la machine"),
        "replace": bars("remplacer la carte | remplacer la carte par une neuve | remplacer le matériel"),
        "investigate": bars("analyser la cause | analyser les logs | analyser cela et trouver la cause"),
        "refund": bars("nous rembourser | rembourser {~number} euros | rembourser les heures perdues"),
        "grant_access": bars("donner l'accès à {username} | ouvrir l'accès pour {username}"),
        "explain": bars("expliquer cela | nous expliquer ce que cela veut dire | expliquer la raison"),
    },
    "ES": {
        "restart": bars("reiniciar (el servidor|el nodo) | reiniciar {host} | reiniciar la máquina"),
        "replace": bars("sustituir la tarjeta | sustituir la tarjeta por otra | sustituir el equipo"),
        "investigate": bars("investigar la causa | investigar esto | investigar los registros"),
        "refund": bars("devolver el dinero | devolver {~number} euros | devolver el importe"),
        "grant_access": bars("dar acceso a {username} | abrir el acceso para {username}"),
        "explain": bars("explicar esto | explicar qué significa | explicar el motivo"),
    },
}
_CODE = {
    "DE": lines("""
        Der Fehlercode ist {code}.
        Es erscheint der Fehler {code}.
        Fehler {code} wird angezeigt.
        Im Log steht der Fehler {code}.
        Fehlercode: {code}
        Gemeldet wird Fehler {code}.
        Code {code} auf dem Bildschirm."""),
    "FR": lines("""
        Le code d'erreur est {code}.
        L'erreur {code} apparaît.
        Erreur {code} affichée.
        Le journal montre l'erreur {code}.
        Code d'erreur : {code}
        On reçoit l'erreur {code}.
        Code {code} à l'écran."""),
    "ES": lines("""
        El código de error es {code}.
        Aparece el error {code}.
        Se muestra el error {code}.
        El registro contiene el error {code}.
        Código de error: {code}
        Recibimos el error {code}.
        Código {code} en la pantalla."""),
}
_GPU = {
    "DE": lines("""
        Die Karte ist eine {card}.
        Wir nutzen eine {card}.
        Es geht um die {card}.
        Karte: {card}
        Im Knoten steckt eine {card}.
        Die GPU heißt {card}.
        Verbaut ist {card}."""),
    "FR": lines("""
        La carte est une {card}.
        Nous utilisons une {card}.
        Il s'agit de la {card}.
        Carte : {card}
        Le nœud contient une {card}.
        Le GPU est une {card}.
        Modèle installé : {card}"""),
    "ES": lines("""
        La tarjeta es una {card}.
        Usamos una {card}.
        Se trata de la {card}.
        Tarjeta: {card}
        El nodo lleva una {card}.
        La GPU es una {card}.
        Modelo instalado: {card}"""),
}
_CLOSING = {
    "DE": lines("""
        Danke.
        Mit freundlichen Grüßen, {person}
        Viele Grüße, {given}
        Vielen Dank
        Gruß, {given}"""),
    "FR": lines("""
        Merci.
        Cordialement, {person}
        Bien à vous, {given}
        Merci d'avance
        Salutations, {given}"""),
    "ES": lines("""
        Gracias.
        Un saludo, {person}
        Saludos, {given}
        Muchas gracias
        Atentamente, {given}"""),
}


def _banks() -> Banks:
    divided: dict[str, tuple[str, ...]] = {}
    shared: dict[str, tuple[str, ...]] = {}
    for lang in LANGUAGES:
        shared |= {f"NOUN_{k.upper()}_{lang}": v for k, v in _SUBJECTS[lang].items()}
        divided |= {f"SEV_{k.upper()}_{lang}": v for k, v in _SEVERITY[lang].items()}
        shared |= {f"DO_{k.upper()}_{lang}": v for k, v in _DO[lang].items()}
        for name, bank in (
            ("PRED", _PREDICATES),
            ("SYMPTOM_WRAP", _WRAP),
            ("WISH", _WISH),
            ("MENTION_CODE", _CODE),
            ("MENTION_GPU", _GPU),
            ("CLOSING", _CLOSING),
        ):
            divided[f"{name}_{lang}"] = bank[lang]
    return Banks(divided, shared)


BANKS = _banks()
