"""Forms of natural-language-inference tasks, and the nearest tasks that are none: all made up."""

# ruff: noqa: E501 - a text that is cut in two is harder to read

INFERENCE = [
    # paragraph, question about a statement, three options
    "The ferry did not sail on Monday.\n\nBased on the paragraph above can we conclude that "
    '"The ferry stayed in port"?\n\nOPTIONS:\n- Yes\n- It\'s impossible to say\n- No',
    "Two of the huts were empty.\n\nBased on that paragraph can we conclude that this sentence is "
    "true?\nSome huts had guests.\n\nOPTIONS:\n- Yes\n- It's impossible to say\n- No",
    "The baker closed at noon.\n\nCan we draw the following conclusion?\nThe shop was shut in the "
    "evening.\n\nOPTIONS:\n- Yes\n- It's impossible to say\n- No",
    "Kari sold her boat.\nDoes this next sentence follow, given the preceding text?\nKari has no "
    "boat.\n\nOPTIONS:\n- Yes\n- It's impossible to say\n- No",
    "All tickets are gone.\nCan we infer the following?\nThe hall will be full.\nOptions: a) Yes b) "
    "It's impossible to say c) No",
    "Read the following paragraph and determine if the hypothesis is true:\n\nThe well ran dry in "
    "May.\n\nHypothesis: There was no rain.",
    "Read the text and determine if the sentence is true:\n\nThe well ran dry in May.\n\nSentence: "
    "There was water in June.\n",
    "Can we draw the following hypothesis from the context?\n\nContext:\n\nRain fell all week.\n\n"
    "Hypothesis: The river rose.",
    "Determine if the sentence is true based on the text below:\nThe river rose.\n\nRain fell all "
    "week.\nOPTIONS:\n- yes\n- no",
    # two options
    "A dog sleeps on the mat.\n\nQuestion with options: Based on the paragraph above can we conclude "
    'that "The dog is at rest"?\n\nOPTIONS:\n- yes\n- no',
    "A dog sleeps.\nQ with options: Can we draw the following conclusion?\nThe dog is awake.\n"
    "OPTIONS:\n- yes\n- no",
    # two sentences in quotation marks
    'If "A girl rows across the lake", does this mean that "A girl is on the water"?',
    'If "Two men play chess", can we conclude "Two men sit at a table"?\nOPTIONS:\n- Yes\n- No',
    'If "The bus was late", does it logically follow that "The bus did not come"?',
    'Based on the sentence "A boy eats an apple", is the sentence "A boy eats fruit" a true sentence?',
    'Let\'s say that "The vase broke because it was thin"\n\nCan we now say that "The vase was '
    'thin"?',
    '"Anna thanked Beth because she had helped" is a true sentence.\n\nDoes this mean that "Beth had '
    'helped"?',
    'Does "The keeper was tall" appear to be an accurate statement based on "The keeper stooped at '
    'the door"?',
    'Can we conclude that "The tent was wet" if the statement "Rain came through the tent" is true?',
    'Is it possible to draw the conclusion that "The soup was hot" if "The soup steamed"?',
    'Is "The lamp was lit" true if "The lamp shone"?',
    'If "Per fed the cat", is "The cat was fed by Per" correct?',
    # pairs with labels
    "Premise: A man mends a net.\nHypothesis: A man works.\nDoes the premise entail the hypothesis?",
    "Here is a premise: A man mends a net. Here is a hypothesis: A man works. Is it possible to "
    "conclude that if the premise is true, then so is the hypothesis?",
    "Sentence 1: A hare crossed the road.\nSentence 2: An animal crossed.\nIs this second sentence "
    "entailed by the first sentence?",
    "Sentence 1: The clock struck.\n\nSentence 2: It was noon.\n\nIs sentence 2 true, based on "
    "sentence 1?",
    # instructions
    "You see a pair of sentences. Choose whether the first entails, contradicts or is neutral to the "
    "second.\n\nSentence 1: It snows. Sentence 2: It is July.",
    "Label the pair as contradiction, entailment or neutral.\nThe tide is out. / The boats float.",
    # three words at the end
    'Suppose the mill stands still. Can we infer that "There is no wind"? Yes, no, or maybe?',
    "The mill stands still. Question: There is no wind. True, False, or Neither?",
    'Olga was born in Oslo. Are we justified in saying that "Olga is Norwegian"? Yes, no, or maybe?',
    "Given that the mill stands still. Does it follow that there is no wind? Yes, no, or maybe?",
    "The mill stands still. Using only the above description and what you know about the world, "
    '"The wheel turns" is definitely correct, incorrect, or inconclusive?',
    'Take the following as truth: the mill stands still. Then the following statement: "It grinds" '
    "is true, false, or inconclusive?",
    'Given that the mill stands still, therefore it must be true that "nobody grinds"? Yes, no, or '
    "maybe?",
    "The mill stands still. Keeping in mind the above text, consider: the wheel turns. Is this "
    "always, sometimes, or never correct?",
    # a question and a sentence
    'Does the sentence "The bridge opened in 1890" answer the question "When was the bridge opened?"',
    'Is "The bridge is red" a good answer to the question "When was the bridge opened?"',
    "Q: When was the bridge opened?\nA: It was opened in 1890.\nDoes the answer correctly answer the "
    "question?",
    'Does "It spans the fjord" contain the correct answer to "How long is the bridge?"?',
]
OTHERS = [
    "What is the premise of the film about the lighthouse?",
    "Explain the hypothesis of Riemann in simple words.",
    "State the null hypothesis; then test it.",
    "On the premises: a bar, a restaurant.",
    "Is it possible to tell the age of a tree?",
    "A lab report has these parts. Hypothesis: salt lowers the freezing point. Rewrite it.",
    "Name the fallacy. Premise 1: All owls fly. Premise 2: My kite flies. Conclusion: it is an owl.",
    "Given the table, can we conclude that May was the wettest month? Explain.\nApril 40, May 55",
    "The guard said it is not possible to tell the twins apart. Write a story that begins so.",
    'Does the word "spring" mean the same in these two sentences?\nThe spring broke.\nWe met in spring.'
    "\nOPTIONS:\n- yes\n- no",
    "Is the review positive or negative?\nThe soup was cold.\nOPTIONS:\n- positive\n- negative",
    "Are these two questions the same? How old is Rome? What is the age of Rome?\nOPTIONS:\n- yes\n- no",
    'Is this sentence grammatical? "He go home."\nOPTIONS:\n- yes\n- no',
    "Will it rain in Bergen tomorrow? Answer yes, no or maybe.",
    "True or false: the Danube flows through ten countries.",
    "Write a short poem that ends with the words yes, no, maybe.",
    "What does the job of a lighthouse keeper entail?",
    "What duties does the contract entail?",
    "Find a contradiction in the speech below and explain it.\nWe never raise taxes. We raised them.",
    "Write in a neutral tone about the strike.",
    "Answer the question about the passage.\nPassage: The bridge opened in 1890.\nQuestion: When did "
    "it open?",
    "Does a kilogram of lead weigh more than a kilogram of feathers? Why?",
    "Which sentence comes next in the story?\nOla lit the stove.\n- The hut grew warm.\n- Rome fell.",
    'Rewrite the sentence so that it means the same: "The dog chased the cat."',
    "If a train leaves at nine and takes two hours, when does it arrive?",
    'Translate "Is it true that it snows?" into Spanish.',
    "What conclusion can we draw from the history of the Hanseatic League?",
    "How do I say correctly that I have gone?",
    "Does the following code follow the style guide?\nx=1",
    "Write a hypothesis and a way to test it for a school project on plants.",
    "Given the premise of a flooded town, write the first scene of a play.",
    "Does this mean that I have to pay the fee twice? My landlord says so.",
    "Choose the right word: The river (flow/flows) north.",
    'Summarise the text. The following sentence is its first: "The mill stood still."',
    "Can we go to the beach with a dog in June? Answer for Spain.",
    'Is the title a good one for a thriller? "The Empty Ferry"',
    "Write the question that this sentence answers: The bridge opened in 1890.",
    "Generate an answer to the question: how long is the bridge?",
    "Which of the two statements is about birds?\n1. Owls hunt at night.\n2. Trains are late.",
    'Which option is a synonym of "quick"?\nOPTIONS:\n- fast\n- slow',
]
